//! Approximate memory of segmenting a typical CT with a model, estimated without loading it.

use super::stage::network_grid;
use crate::model::bundle::Bundle;
use crate::recipe::Recipe;
use crate::recipe::layer_table::input_of;
use crate::recipe::output_maps::output_maps;
use ctseg_base::Result;
use ctseg_engine::precision::Precision;
use ctseg_image::preprocess::channels::padded_size;
use ctseg_image::space::{Grid, Orientation, VoxelBox};

/// Code, threads and libraries of a process: 0.4 GiB measured with libtorch.
const PROCESS_BYTES: u64 = 400 << 20;

/// Bytes per source voxel: Hounsfield units and labels.
const VOXEL_BYTES: u64 = 6;

/// Chest and abdomen in slices of 1.5 mm.
const SHAPE: [usize; 3] = [512, 512, 400];
const SPACING_MM: [f64; 3] = [0.75, 0.75, 1.5];

/// The grid of the typical CT.
pub fn typical_volume() -> Grid {
    Grid::with_spacing(SHAPE, SPACING_MM)
}

/// How a device computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ComputeMode {
    pub precision: Precision,
    /// Number of threads that compute convolutions by im2col, each on its own patch; 0 if the engine does not use
    /// im2col.
    pub im2col_threads: u64,
}

/// Bytes, if the region of interest is the whole volume. Stages run one after the other. GPU memory is included.
///
/// # Errors
/// A manifest with values that no network can have.
pub fn needed_bytes(bundle: &Bundle, mode: ComputeMode) -> Result<u64> {
    let source = typical_volume();
    let values: Vec<u16> = bundle.structures()?.iter().map(|s| s.value).collect();
    let mut most = 0;
    for stage in [1, 2].into_iter().filter_map(|stage| bundle.stage(stage)) {
        let maps = output_maps(&stage.recipe, &values).len();
        let folds = stage.folds.len().max(1) as u64;
        most = most.max(stage_bytes(&stage.recipe, maps, folds, &source, mode)?);
    }
    Ok(PROCESS_BYTES + VOXEL_BYTES * source.voxels() as u64 + most)
}

fn stage_bytes(
    recipe: &Recipe,
    maps: usize,
    folds: u64,
    source: &Grid,
    mode: ComputeMode,
) -> Result<u64> {
    let whole = VoxelBox::whole(source.reoriented(Orientation::RAS).shape);
    let grid = network_grid(recipe, source, &whole);
    let mut input = input_of(recipe);
    if !recipe.is_patch_based() {
        // Whole slices.
        let (shape, multiple) = (grid.shape_zyx(), recipe.network.multiple());
        input[3] = padded_size(shape[1], multiple[1]);
        input[4] = padded_size(shape[2], multiple[2]);
    }
    let cost = recipe.network.cost(recipe.channels(), maps, input)?;
    let unfolds = mode.im2col_threads > 0;
    // With im2col, each thread has its own patch.
    let (batch, at_once) = match unfolds {
        true => (1, mode.im2col_threads.min(input[0] as u64)),
        false => (input[0], 1),
    };
    // For each pass that runs in parallel.
    let pass = at_once * cost.inference_bytes(batch, mode.precision, u64::from(unfolds));
    let weights = (folds - 1) * 4 * cost.parameters;
    Ok(4 * recipe.channels() as u64 * grid.voxels() as u64 + pass + weights)
}
