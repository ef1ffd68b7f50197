//! What a network costs: its layers with their shapes, parameters, multiply-adds and the memory that
//! training needs, all without making a tensor.

use serde::Serialize;

use super::{Extras, Network, NetworkConfig};
use crate::blocks::shape_ops::{Counted, Counting, Shape};
use crate::device::DeviceChoice;
use crate::precision::Precision;
use ctseg_base::{Error, Result};

/// A network's layers and their sums. All but the parameters are for one sample.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Trained ones; running statistics are not among them.
    pub parameters: u64,
    /// Of a forward pass; one back takes twice as many.
    pub multiply_adds: u64,
    /// What training keeps from the forward pass for the way back.
    pub activation_bytes: Bytes,
    /// In the order of computation; the first is the input.
    pub layers: Vec<LayerCost>,
}

/// One layer of a [`Cost`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayerCost {
    /// As its weights are called (`encoder.0.1`), or the operation where it has none.
    pub name: String,
    /// (channel, space…)
    pub output: Vec<usize>,
    pub parameters: u64,
    pub multiply_adds: u64,
    pub activation_bytes: Bytes,
}

impl LayerCost {
    /// Numbers in its output.
    fn elements(&self) -> u64 {
        self.output.iter().map(|side| *side as u64).product()
    }

    /// Of its output.
    fn voxels(&self) -> u64 {
        let channels = self.output.first().copied().unwrap_or(1);
        self.elements() / channels.max(1) as u64
    }

    /// Numbers of the neighbourhoods that are written out at a time, and of what is made of them.
    fn tile_elements(&self) -> u64 {
        let neighbourhood = self.multiply_adds / self.elements().max(1);
        let channels = self.output.first().copied().unwrap_or(1) as u64;
        UNFOLDED_VOXELS.min(self.voxels()) * (neighbourhood + channels)
    }
}

/// Bytes by the type of the activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Bytes {
    pub f32: u64,
    /// f16 too.
    pub bf16: u64,
}

impl Bytes {
    /// In this precision.
    pub fn of(self, precision: Precision) -> u64 {
        match precision {
            Precision::F32 => self.f32,
            Precision::Bf16 | Precision::F16 | Precision::Int8 => self.bf16,
        }
    }
}

/// How often the largest layer's output (a skip beside what comes from below) is in memory at once in use: it, what
/// the next layer makes of it, and an engine's copy in another layout. Measured on libtorch's CPU engine beside 0.4 GB
/// of the process: a U-Net 3D 32-256 on 96³ took 1.10 GB in f32 and 0.76 in bf16, a U-Net 2D 32-512 on 4 × 512² 1.07.
const LIVE_IN_USE: f64 = 2.5;

/// Bytes per parameter in training: the weight, its gradient and Adam's two moments, all f32.
const BYTES_PER_PARAMETER: u64 = 16;

/// The same where convolutions are products of matrices (Burn's Flex): the input is there channels last, too.
const LIVE_UNFOLDED: f64 = 3.0;

/// Such an engine writes out the neighbourhoods of so many voxels at a time, and a thread that waits for a product to
/// end begins with the next ones.
const UNFOLDED_VOXELS: u64 = 512;
const UNFOLDED_TILES: u64 = 3;

impl Cost {
    /// About how much memory a pass in use takes at its peak beside the weights, for a batch of `batch`: the largest
    /// layer with its neighbours, input and output in plain memory, one layer's weights in another layout. An engine
    /// with `unfolding_threads` turns convolutions into products of matrices; 0 where it does not.
    pub fn pass_bytes(&self, batch: usize, precision: Precision, unfolding_threads: u64) -> u64 {
        let width = if precision == Precision::F32 { 4 } else { 2 };
        let size = LayerCost::elements;
        let largest = self.layers.iter().map(size).max().unwrap_or(0);
        let input = self.layers.first().map_or(0, size);
        let logits = self.layers.last().map_or(0, size);
        // As tensors, and as they come and go.
        let plain = (input + logits) * (width + 4) + input * 4;
        let live = match unfolding_threads {
            0 => LIVE_IN_USE,
            _ => LIVE_UNFOLDED,
        };
        let per_sample = (live * (largest * width) as f64) as u64 + plain;
        let parameters = self.layers.iter().map(|layer| layer.parameters).max();
        let tiles = self.layers.iter().map(|layer| {
            let most = layer.voxels().div_ceil(UNFOLDED_VOXELS) * batch as u64;
            (UNFOLDED_TILES * unfolding_threads).min(most) * layer.tile_elements()
        });
        let beside = parameters.unwrap_or(0) + tiles.max().unwrap_or(0);
        (batch as u64 * per_sample).saturating_add(beside * width)
    }

    /// [`Cost::pass_bytes`] with the weights.
    pub fn inference_bytes(
        &self,
        batch: usize,
        precision: Precision,
        unfolding_threads: u64,
    ) -> u64 {
        let width = if precision == Precision::F32 { 4 } else { 2 };
        self.parameters * width + self.pass_bytes(batch, precision, unfolding_threads)
    }

    /// About how much memory a training step with Adam takes at its peak, for a batch of `batch`: weights,
    /// gradients, moments, what is kept for the way back, and the largest layer's gradient.
    pub fn training_bytes(&self, batch: usize, precision: Precision) -> u64 {
        let width = if precision == Precision::F32 { 4 } else { 2 };
        // Weights are cast for each pass.
        let cast = if precision == Precision::F32 { 0 } else { 2 };
        let size = LayerCost::elements;
        let largest = self.layers.iter().map(size).max().unwrap_or(0);
        // Logits, their gradient and the targets are f32.
        let logits = self.layers.last().map_or(0, size);
        let per_sample = self.activation_bytes.of(precision) + largest * width + 3 * 4 * logits;
        self.parameters * (BYTES_PER_PARAMETER + cast) + batch as u64 * per_sample
    }
}

impl NetworkConfig {
    /// The network's table for an input of shape `input` (batch, channel, z, y, x), z the number of slices
    /// that it sees (1 for `unet2d`). Figures are per sample, whatever the batch.
    ///
    /// # Errors
    /// A recipe value that no network can have, or an input that does not fit the network.
    pub fn cost(&self, channels: usize, structures: usize, input: [usize; 5]) -> Result<Cost> {
        let [_, given, z, y, x] = input;
        let flat = self.dimensions() == 2;
        let (slices, space) = match flat {
            true => (self.seen_slices(), vec![y, x]),
            false => (1, vec![z, y, x]),
        };
        if given != channels || (flat && z != slices) {
            return Err(Error::invalid(format!(
                "an input of {given} channels and {z} slices does not fit {}; expected {channels} channels{}",
                self.name(),
                if flat {
                    format!(" and {slices} slices")
                } else {
                    String::new()
                }
            )));
        }
        let multiple = &self.multiple()[3 - space.len()..];
        let fits = |(side, multiple): (&usize, &usize)| *side > 0 && side % multiple == 0;
        if !space.iter().zip(multiple).all(fits) {
            return Err(Error::invalid(format!(
                "an input of {space:?} does not fit {}; expected sides that are multiples of {multiple:?}",
                self.name()
            )));
        }
        // Any engine: weights are drawn when they are first used, and here they never are.
        let network = self.init(channels, structures, &DeviceChoice::cpu().device()?)?;
        let counting = Counting::of(&network);
        let shape = Shape(std::iter::once(channels * slices).chain(space).collect());
        let begin = input_layer(&shape);
        let wanted = Extras::training();
        match &network {
            Network::Slices(network) => drop(network.outputs(&counting, shape, wanted)?),
            Network::Volumes(network) => drop(network.outputs(&counting, shape, wanted)?),
        }
        Ok(summed(std::iter::once(begin).chain(counting.layers())))
    }
}

/// The input is kept, as every layer's output.
fn input_layer(shape: &Shape) -> Counted {
    Counted {
        name: "input".to_owned(),
        output: shape.0.clone(),
        parameters: 0,
        multiply_adds: 0,
        kept: shape.0.iter().map(|side| *side as u64).product(),
        kept_bytes: 0,
    }
}

fn summed(counted: impl Iterator<Item = Counted>) -> Cost {
    let layers: Vec<LayerCost> = counted
        .map(|layer| LayerCost {
            activation_bytes: Bytes {
                f32: 4 * layer.kept + layer.kept_bytes,
                bf16: 2 * layer.kept + layer.kept_bytes,
            },
            name: layer.name,
            output: layer.output,
            parameters: layer.parameters,
            multiply_adds: layer.multiply_adds,
        })
        .collect();
    let sum = |of: &dyn Fn(&LayerCost) -> u64| layers.iter().map(of).sum();
    Cost {
        parameters: sum(&|layer| layer.parameters),
        multiply_adds: sum(&|layer| layer.multiply_adds),
        activation_bytes: Bytes {
            f32: sum(&|layer| layer.activation_bytes.f32),
            bf16: sum(&|layer| layer.activation_bytes.bf16),
        },
        layers,
    }
}
