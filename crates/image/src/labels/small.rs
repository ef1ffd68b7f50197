//! Dropping what is too small to be a structure.

use ndarray::Array3;

use super::components::{Connectivity, retain_components};

/// Removes the components of `mask` that take less than `smallest_ml`, voxels taking `voxel_ml` each
/// (as `skimage.morphology.remove_small_objects`, in mL).
///
/// # Shapes
/// `mask`: (z, y, x)
pub fn drop_small(
    mask: &mut Array3<bool>,
    smallest_ml: f64,
    voxel_ml: f64,
    connectivity: Connectivity,
) {
    // A component of exactly the smallest volume stays, however its product is rounded.
    let smallest = smallest_ml * (1.0 - 1e-9);
    retain_components(mask.view_mut(), connectivity, |component| {
        component.voxels as f64 * voxel_ml >= smallest
    });
}
