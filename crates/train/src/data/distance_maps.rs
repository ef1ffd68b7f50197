//! Signed distance maps of a batch's targets, for losses that need them.

use ndarray::{ArrayView3, ArrayViewMut3};
use rayon::prelude::*;

use ctseg_core::recipe::Recipe;
use ctseg_engine::batch::Batch;
use ctseg_image::metrics::distance_transform::signed_distance_mm;

/// Adds to `batch` the signed distance of every voxel to the surface of each structure within its patch, computed in
/// parallel. Voxels without annotation count as outside.
pub fn add_distances(batch: &mut Batch, recipe: &Recipe) {
    let [_, _, z, y, x] = batch.targets_shape;
    let [x_mm, y_mm, z_mm] = recipe.spacing_mm;
    let size = (z * y * x).max(1);
    let mut distances = vec![0.0f32; batch.targets.len()];
    distances
        .par_chunks_exact_mut(size)
        .zip(batch.targets.par_chunks_exact(size))
        .for_each(|(to, targets)| {
            let targets = ArrayView3::from_shape((z, y, x), targets);
            let to = ArrayViewMut3::from_shape((z, y, x), to);
            // Always holds: both shapes match the chunks.
            if let (Ok(targets), Ok(mut to)) = (targets, to) {
                let inside = targets.mapv(|target| target == 1.0);
                to.assign(&signed_distance_mm(inside.view(), [z_mm, y_mm, x_mm]));
            }
        });
    batch.distances = Some(distances);
}
