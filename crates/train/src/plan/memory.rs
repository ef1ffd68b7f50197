//! How much memory the training of a recipe takes, and may take.

use ctseg_base::Result;
use ctseg_core::recipe::Recipe;
use ctseg_engine::precision::Precision;

/// Code, threads and allocators of a process that trains next to nothing: 0.46 GiB were measured on libtorch.
const PROCESS_BYTES: u64 = 480 << 20;

/// Batches that are ready, being filled or under way, beside the one in the network.
const BATCHES: u64 = 6;

/// Cases that are being read and resampled at once.
const CASES_AT_ONCE: u64 = 2;

/// Room for what [`ctseg_engine::networks::cost::Cost::training_bytes`] does not count, such as an engine's workspaces.
/// Measured on libtorch's CPU engine in f32 (`ctseg bench --mode training`): a U-Net 3D 32-256 on 2 × 48×80×80 took
/// 1972 MiB where 2025 are estimated, a U-Net 2D 32-512 on 4 × 256² 1398 where 1530 are.
const FACTOR: f64 = 1.25;

/// What a training may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    pub bytes: u64,
    /// Whether the bytes are a GPU's: data then lies elsewhere.
    pub on_gpu: bool,
    pub precision: Precision,
}

/// Where a training's memory goes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// Weights, gradients, moments, activations: what lies on the device.
    pub network: u64,
    /// Data in the process: cache, cases, batches.
    pub data: u64,
}

impl Estimate {
    /// On the CPU, where both share the memory.
    pub fn on_host(&self) -> u64 {
        PROCESS_BYTES + self.network + self.data
    }

    /// On a GPU, beside its driver's context.
    pub fn on_device(&self) -> u64 {
        PROCESS_BYTES + self.network
    }
}

impl Budget {
    pub(super) fn holds(&self, estimate: &Estimate) -> bool {
        self.taken(estimate) <= self.bytes
    }

    /// The bytes of an estimate that lie in the budget's memory.
    pub fn taken(&self, estimate: &Estimate) -> u64 {
        if self.on_gpu {
            estimate.on_device()
        } else {
            estimate.on_host()
        }
    }
}

/// The shape that a recipe's network is trained on: (batch, channel, z, y, x).
pub fn input_shape(recipe: &Recipe) -> [usize; 5] {
    let [z, y, x] = recipe.training.patch_size.zyx();
    let seen = match recipe.network.dimensions() {
        2 => 2 * recipe.network.neighbours() + 1,
        _ => z,
    };
    [recipe.training.batch_size, recipe.channels(), seen, y, x]
}

/// For a recipe that gives so many maps; `case_voxels` are those of a large case on the network's grid,
/// `source_voxels` those of its file. The patch must fit the network.
pub fn estimated(
    recipe: &Recipe,
    maps: usize,
    precision: Precision,
    [case_voxels, source_voxels]: [f64; 2],
) -> Result<Estimate> {
    let shape = input_shape(recipe);
    let batch = recipe.training.batch_size;
    let cost = recipe.network.cost(recipe.channels(), maps, shape)?;
    let network = FACTOR * cost.training_bytes(batch, precision) as f64;
    // f32: inputs, and targets of one slice or the whole patch.
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
