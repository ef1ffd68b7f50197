//! Small learners for every engine of the build.

#![allow(dead_code)] // each test file uses its own part

use ctseg_engine::batch::Batch;
use ctseg_engine::device::{Compute, DeviceChoice};
use ctseg_engine::learner::{Learner, LearnerSetup};
use ctseg_engine::losses::Loss;
use ctseg_engine::networks::NetworkConfig;
use ctseg_engine::optim::{OptimiserConfig, OptimiserKind};
use ctseg_engine::precision::{Precision, PrecisionChoice};
use ctseg_engine::weights::{NamedTensors, network_tensors, with_tensors};

pub fn open(choice: DeviceChoice, precision: Precision) -> Compute {
    Compute::open(choice, PrecisionChoice::Fixed(precision), 2).unwrap()
}

pub fn unet(norm: &str, widths: &[usize]) -> NetworkConfig {
    let text = format!("kind = 'unet2d'\nwidths = {widths:?}\nnorm = '{norm}'\ndropout = 0.2");
    toml::from_str(&text).unwrap()
}

pub fn batch(count: usize, side: usize) -> Batch {
    let pixels = count * side * side;
    let value = |i: usize| (i as f32 * 0.37).sin();
    Batch {
        input: (0..pixels).map(|i| value(i).abs()).collect(),
        input_shape: [count, 1, 1, side, side],
        targets: (0..2 * pixels)
            .map(|i| f32::from(u8::from(value(i / 7) > 0.5)))
            .collect(),
        targets_shape: [count, 2, 1, side, side],
        distances: None,
        whole: count,
    }
}

pub fn setup(kind: OptimiserKind) -> LearnerSetup {
    LearnerSetup {
        loss: Loss::default(),
        optimiser: OptimiserConfig {
            kind,
            learning_rate: 0.01,
            ..OptimiserConfig::default()
        },
        recompute: false,
        micro_batches: 1,
        weight_average: None,
        frozen_levels: 0,
        sync_norms: false,
        group: Default::default(),
    }
}

/// Weights that are the same on every engine.
pub fn weights(config: &NetworkConfig) -> NamedTensors {
    let network = config
        .init(1, 2, &DeviceChoice::Flex.device().unwrap())
        .unwrap();
    let mut tensors = network_tensors(&network).unwrap();
    for (index, (name, tensor)) in tensors.iter_mut().enumerate() {
        if name.ends_with("weight") {
            let fan_in = tensor.shape[1..].iter().product::<usize>() as f32;
            for (i, value) in tensor.values.iter_mut().enumerate() {
                *value = ((i + index) as f32 * 1.618).sin() * (4.0 / fan_in).sqrt();
            }
        }
    }
    tensors
}

pub fn learner(config: &NetworkConfig, setup: LearnerSetup, compute: &Compute) -> Box<dyn Learner> {
    let network = config.init(1, 2, &compute.device).unwrap();
    let network = with_tensors(network, &weights(config), &compute.device).unwrap();
    compute.learner(network, setup).unwrap()
}

/// Every CPU engine of this build.
pub fn engines() -> Vec<DeviceChoice> {
    let mut engines = vec![DeviceChoice::Flex];
    if cfg!(feature = "libtorch") {
        engines.push(DeviceChoice::LibTorchCpu);
    }
    engines
}
