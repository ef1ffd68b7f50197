//! Estimates the memory that training a recipe needs.

use ctseg_base::Result;
use ctseg_core::recipe::Recipe;
use ctseg_engine::precision::Precision;

/// Base memory of a training process (code, threads, allocators): 0.46 GiB measured on libtorch.
const PROCESS_BYTES: u64 = 480 << 20;

/// Batches that are queued, being filled or in transit, in addition to the one in the network.
const BATCHES: u64 = 6;

/// Cases read and resampled at the same time.
const CASES_AT_ONCE: u64 = 2;

/// Safety factor for what [`ctseg_engine::networks::cost::Cost::training_bytes`] does not count, such as an engine's
/// workspaces. Measured on libtorch's CPU engine in f32 (`ctseg bench --mode training`): a 3D U-Net 32-256 on 2 ×
/// 48×80×80 took 1972 MiB (estimate 2025), a 2D U-Net 32-512 on 4 × 256² 1398 MiB (estimate 1530).
const SAFETY_FACTOR: f64 = 1.25;

/// The memory budget of a training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    pub bytes: u64,
    /// Whether this is GPU memory, which does not hold the data.
    pub on_gpu: bool,
    pub precision: Precision,
}

/// The estimated memory of a training, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// On the device: weights, gradients, optimiser moments, activations.
    pub network: u64,
    /// In host memory: cache, cases, batches.
    pub data: u64,
}

impl Estimate {
    /// Total on the CPU, where network and data share the memory.
    pub fn on_host(&self) -> u64 {
        PROCESS_BYTES + self.network + self.data
    }

    /// Total on a GPU, without the driver's context.
    pub fn on_device(&self) -> u64 {
        PROCESS_BYTES + self.network
    }
}

impl Budget {
    pub(super) fn fits(&self, estimate: &Estimate) -> bool {
        self.bytes_needed(estimate) <= self.bytes
    }

    /// The bytes that a training with this estimate needs of the budget's memory.
    pub fn bytes_needed(&self, estimate: &Estimate) -> u64 {
        if self.on_gpu {
            estimate.on_device()
        } else {
            estimate.on_host()
        }
    }
}

/// The input shape of a recipe's network in training: (batch, channel, z, y, x).
pub fn input_shape(recipe: &Recipe) -> [usize; 5] {
    let [z, y, x] = recipe.training.patch_size.zyx();
    let depth = match recipe.network.dimensions() {
        2 => 2 * recipe.network.neighbours() + 1,
        _ => z,
    };
    [recipe.training.batch_size, recipe.channels(), depth, y, x]
}

/// Estimates the memory of training a recipe with `maps` output maps. `case_voxels` is the size of a large case on the
/// network's grid, `source_voxels` its size in the file. The patch must fit the network.
pub fn estimate_memory(
    recipe: &Recipe,
    maps: usize,
    precision: Precision,
    [case_voxels, source_voxels]: [f64; 2],
) -> Result<Estimate> {
    let shape = input_shape(recipe);
    let batch = recipe.training.batch_size;
    let cost = recipe.network.cost(recipe.channels(), maps, shape)?;
    let network = SAFETY_FACTOR * cost.training_bytes(batch, precision) as f64;
    // In f32: inputs, and targets of one slice or the whole patch.
    let [z, y, x] = recipe.training.patch_size.zyx();
    let in_batch = 4 * (shape.iter().product::<usize>() + batch * maps * z * y * x) as u64;
    let channels = recipe.channels() as f64;
    // Channels in f32 and labels in u16, of the case and of its file.
    let case = case_voxels * (4.0 * channels + 2.0) + source_voxels * 6.0;
    Ok(Estimate {
        network: network as u64,
        data: ((recipe.training.cache_mb as u64) << 20)
            + BATCHES * in_batch
            + CASES_AT_ONCE * case as u64,
    })
}
