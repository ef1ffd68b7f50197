//! Cost of a network: its layers with their shapes, parameters, multiply-adds and training memory, computed without
//! allocating tensors.

use serde::Serialize;

use super::module::{Extras, Ranks};
use super::registry::NetworkConfig;
use crate::blocks::shape_ops::{LayerCounts, Shape, ShapeOps};
use crate::device::DeviceChoice;
use crate::precision::Precision;
use ctseg_base::{Error, Result};

/// Cost of a network: its layers and their totals. All but the parameters are per sample.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Trained parameters, without running statistics.
    pub parameters: u64,
    /// Of the forward pass; the backward pass needs twice as many.
    pub multiply_adds: u64,
    /// Activations that training saves for the backward pass.
    pub activation_bytes: Bytes,
    /// In order of computation; the first is the input.
    pub layers: Vec<LayerCost>,
}

/// One layer of a [`Cost`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayerCost {
    /// Name of the layer (`encoder.0.1`), or of the operation if it has no weights.
    pub name: String,
    /// (channel, space…)
    pub output: Vec<usize>,
    pub parameters: u64,
    pub multiply_adds: u64,
    pub activation_bytes: Bytes,
}

impl LayerCost {
    /// Elements of the output.
    fn elements(&self) -> u64 {
        self.output.iter().map(|side| *side as u64).product()
    }

    /// Voxels of the output.
    fn voxels(&self) -> u64 {
        let channels = self.output.first().copied().unwrap_or(1);
        self.elements() / channels.max(1) as u64
    }

    /// Elements of one im2col tile and its product.
    fn tile_elements(&self) -> u64 {
        let neighbourhood = self.multiply_adds / self.elements().max(1);
        let channels = self.output.first().copied().unwrap_or(1) as u64;
        IM2COL_VOXELS.min(self.voxels()) * (neighbourhood + channels)
    }
}

/// Bytes per type of the activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Bytes {
    pub f32: u64,
    /// Also for f16.
    pub bf16: u64,
}

impl Bytes {
    /// The bytes for this precision.
    pub fn of(self, precision: Precision) -> u64 {
        match precision {
            Precision::F32 => self.f32,
            Precision::Bf16 | Precision::F16 | Precision::Int8 => self.bf16,
        }
    }
}

/// How many times the largest layer's output (a skip beside the tensor from below) is in memory at once during
/// inference: itself, the next layer's output, and a copy in another layout. Measured with libtorch on the CPU, in
/// addition to 0.4 GB of the process: a U-Net 3D 32-256 on 96³ took 1.10 GB in f32 and 0.76 in bf16, a U-Net 2D
/// 32-512 on 4 × 512² 1.07.
const LIVE_IN_USE: f64 = 2.5;

/// Bytes per parameter in training: the weight, its gradient and Adam's two moments, all f32.
const BYTES_PER_PARAMETER: u64 = 16;

/// Same for im2col engines (Burn's flex), which also hold the input channels-last.
const LIVE_IM2COL: f64 = 3.0;

/// Voxels per im2col tile, and tiles per thread: a thread that waits for a product starts on the next tile.
const IM2COL_VOXELS: u64 = 512;
const IM2COL_TILES: u64 = 3;

impl Cost {
    /// Estimated peak memory of inference on a batch of `batch`, without the weights: the largest layer with its
    /// neighbours, input and output in host memory, and one layer's weights in another layout. `im2col_threads` is 0
    /// for engines that do not compute convolutions by im2col.
    pub fn pass_bytes(&self, batch: usize, precision: Precision, im2col_threads: u64) -> u64 {
        let width = if precision == Precision::F32 { 4 } else { 2 };
        let size = LayerCost::elements;
        let largest = self.layers.iter().map(size).max().unwrap_or(0);
        let input = self.layers.first().map_or(0, size);
        let logits = self.layers.last().map_or(0, size);
        // As tensors, and in host memory.
        let plain = (input + logits) * (width + 4) + input * 4;
        let live = match im2col_threads {
            0 => LIVE_IN_USE,
            _ => LIVE_IM2COL,
        };
        let per_sample = (live * (largest * width) as f64) as u64 + plain;
        let parameters = self.layers.iter().map(|layer| layer.parameters).max();
        let tiles = self.layers.iter().map(|layer| {
            let most = layer.voxels().div_ceil(IM2COL_VOXELS) * batch as u64;
            (IM2COL_TILES * im2col_threads).min(most) * layer.tile_elements()
        });
        let beside = parameters.unwrap_or(0) + tiles.max().unwrap_or(0);
        (batch as u64 * per_sample).saturating_add(beside * width)
    }

    /// [`Cost::pass_bytes`] plus the weights.
    pub fn inference_bytes(&self, batch: usize, precision: Precision, im2col_threads: u64) -> u64 {
        let width = if precision == Precision::F32 { 4 } else { 2 };
        self.parameters * width + self.pass_bytes(batch, precision, im2col_threads)
    }

    /// Estimated peak memory of a training step with Adam on a batch of `batch`: weights, gradients, moments, saved
    /// activations, and the largest layer's gradient.
    pub fn training_bytes(&self, batch: usize, precision: Precision) -> u64 {
        let width = if precision == Precision::F32 { 4 } else { 2 };
        // Weights are cast in each pass.
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
    /// The cost for an input of shape `input` (batch, channel, z, y, x); z is the number of input slices (1 for
    /// `unet2d`). Figures are per sample, whatever the batch.
    ///
    /// # Errors
    /// An invalid setting, or an input that does not fit the network.
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
        // Weights are initialised lazily and never used here, so any engine will do.
        let network = self.init(channels, structures, &DeviceChoice::cpu().device()?)?;
        let ops = ShapeOps::of(&network);
        let shape = Shape(std::iter::once(channels * slices).chain(space).collect());
        let begin = input_layer(&shape);
        network.pass(&ops, shape, Extras::training())?;
        Ok(summed(std::iter::once(begin).chain(ops.layers())))
    }
}

/// Shapes of one sample; the input of a network on slices already has them stacked as channels.
impl Ranks for ShapeOps {
    type Input = Shape;
    type Output = Shape;

    fn to_slices(input: Shape) -> Result<Shape> {
        Ok(input)
    }

    fn to_volumes(input: Shape) -> Result<Shape> {
        Ok(input)
    }

    fn from_slices(slices: Shape) -> Result<Shape> {
        Ok(slices)
    }

    fn from_volumes(volumes: Shape) -> Result<Shape> {
        Ok(volumes)
    }
}

/// The input is saved, like every layer's output.
fn input_layer(shape: &Shape) -> LayerCounts {
    LayerCounts {
        name: "input".to_owned(),
        output: shape.0.clone(),
        parameters: 0,
        multiply_adds: 0,
        saved: shape.0.iter().map(|side| *side as u64).product(),
        saved_bytes: 0,
    }
}

fn summed(counted: impl Iterator<Item = LayerCounts>) -> Cost {
    let layers: Vec<LayerCost> = counted
        .map(|layer| LayerCost {
            activation_bytes: Bytes {
                f32: 4 * layer.saved + layer.saved_bytes,
                bf16: 2 * layer.saved + layer.saved_bytes,
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
