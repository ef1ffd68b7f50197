//! Throughput of a network on an engine, measured on one repeated batch.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::batch::Batch;
use crate::device::Compute;
use crate::inference::Inference;
use crate::learner::LearnerSetup;
use crate::losses::{Loss, LossConfig};
use crate::networks::NetworkConfig;
use crate::optim::OptimiserConfig;
use crate::precision::Precision;
use crate::weights::network_tensors;
use ctseg_base::{Error, Result};

const SEED: u64 = 1;

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// From a batch in host memory to logits in host memory.
    Forward,
    /// One step: forward, loss, backward, gradient clipping, Adam.
    Training,
}

pub struct Measurement<'a> {
    pub network: &'a NetworkConfig,
    /// (z, y, x); z = 1 for slices
    pub size: [usize; 3],
    pub batch: usize,
    /// Number of structures to segment.
    pub structures: usize,
    pub loss: &'a LossConfig,
    pub pass: Pass,
    /// Steps are repeated for this long, at least three times.
    pub time: Duration,
    pub recompute: bool,
}

/// The result of a measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct Throughput {
    /// For a whole batch, median over the steps.
    pub seconds_per_step: f64,
    pub steps: usize,
    /// Slices or patches per second.
    pub items_per_second: f64,
    pub voxels_per_second: f64,
}

/// Repeats steps for the measurement's duration, after one warm-up step.
///
/// # Errors
/// A size that is not a multiple of the network's; out of memory.
pub fn measure(measurement: &Measurement, compute: &Compute) -> Result<Throughput> {
    let first = 3 - measurement.network.dimensions();
    let multiple = &measurement.network.multiple()[first..];
    let space = &measurement.size[first..];
    let fits = |(side, multiple): (&usize, &usize)| *side > 0 && side % multiple == 0;
    if !space.iter().zip(multiple).all(fits)
        || measurement.batch == 0
        || measurement.structures == 0
    {
        return Err(Error::usage(format!(
            "a size of {space:?} and a batch of {} with {} structures is invalid; expected sides that are multiples of {multiple:?}, at least one item and one structure",
            measurement.batch, measurement.structures
        )));
    }
    compute.device.seed(SEED);
    let network = measurement
        .network
        .init(1, measurement.structures, &compute.device)?;
    network_tensors(&network)?; // Burn initialises weights lazily
    let loss = Loss {
        outputs: measurement.loss.outputs(),
        ..Loss::from(measurement.loss.clone())
    };
    let batch = batch(measurement, &loss);
    match measurement.pass {
        Pass::Forward => {
            let mut inference = Inference::new(vec![network], compute)?;
            if compute.precision == Precision::Int8 {
                inference = inference.recording()?;
                inference.logits(&batch.input, batch.input_shape, None)?;
                let ranges = inference.recorded();
                inference = inference.with_int8(ranges)?;
            }
            timed(measurement, || {
                inference
                    .logits(&batch.input, batch.input_shape, None)
                    .map(drop)
            })
        }
        Pass::Training if compute.precision == Precision::Int8 => Err(Error::usage(
            "--precision int8: training computes in f32, bf16 or f16; use --mode forward",
        )),
        Pass::Training => {
            let setup = LearnerSetup {
                loss,
                optimiser: OptimiserConfig::default(),
                recompute: measurement.recompute,
                micro_batches: 1,
                weight_average: None,
                frozen_levels: 0,
                sync_norms: false,
                group: Arc::default(),
            };
            let mut learner = compute.learner(network, setup)?;
            timed(measurement, || learner.step(&batch, 1e-3, SEED).map(drop))
        }
    }
}

fn timed(measurement: &Measurement, mut step: impl FnMut() -> Result<()>) -> Result<Throughput> {
    step()?;
    let mut seconds = Vec::new();
    let started = Instant::now();
    while seconds.len() < 3 || started.elapsed() < measurement.time {
        let step_start = Instant::now();
        step()?;
        seconds.push(step_start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let items = measurement.batch as f64;
    Ok(Throughput {
        seconds_per_step: median,
        steps: seconds.len(),
        items_per_second: items / median,
        voxels_per_second: items * measurement.size.iter().product::<usize>() as f64 / median,
    })
}

/// Noise-like values, and targets with one voxel in eight set.
fn batch(measurement: &Measurement, loss: &Loss) -> Batch {
    let [z, y, x] = measurement.size;
    let voxels = measurement.batch * z * y * x;
    let noise = |index: usize| (index.wrapping_mul(2_654_435_761) >> 7) % 1000;
    Batch {
        input: (0..voxels).map(|i| noise(i) as f32 / 1000.0).collect(),
        input_shape: [measurement.batch, 1, z, y, x],
        targets: (0..voxels * measurement.structures)
            .map(|i| f32::from(u8::from(noise(i) < 125)))
            .collect(),
        targets_shape: [measurement.batch, measurement.structures, z, y, x],
        distances: loss
            .needs_distances()
            .then(|| vec![0.0; voxels * measurement.structures]),
        whole: measurement.batch,
    }
}
