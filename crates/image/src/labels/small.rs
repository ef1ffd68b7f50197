//! Removing small components.

use ndarray::Array3;

use super::components::{Connectivity, retain_components};

/// Removes the components of `mask` smaller than `smallest_ml`; each voxel has `voxel_ml`. As
/// `skimage.morphology.remove_small_objects`, but in mL.
///
/// # Shapes
/// `mask`: (z, y, x)
pub fn remove_small(
    mask: &mut Array3<bool>,
    smallest_ml: f64,
    voxel_ml: f64,
    connectivity: Connectivity,
) {
    // Keep a component of exactly the smallest volume despite rounding.
    let smallest = smallest_ml * (1.0 - 1e-9);
    retain_components(mask.view_mut(), connectivity, |component| {
        component.voxels as f64 * voxel_ml >= smallest
    });
}
