//! Separable resampling between grids whose axes are parallel.
//!
//! Values equal SciPy's `ndimage.zoom` and `map_coordinates` with `mode='nearest'`, and therefore scikit-image's
//! `resize(mode='edge', anti_aliasing=False)` as called by nnU-Net. If the grids share voxel centres (same grid,
//! permuted, flipped, cropped), voxels are copied, not interpolated.

mod alignment;
mod bspline;
mod gather;
mod intensities;
mod labels;
mod lines;
mod plan;
mod range;
pub mod restore;
mod slicewise;
#[cfg(test)]
mod tests;
mod weights;

pub use intensities::{
    Interpolation, resample, resample_array, resample_array_unclipped, resample_linear,
};
pub use labels::{LabelInterpolation, resample_labels};
pub use restore::{RestoreOptions, restore, restore_bytes, restore_exclusive};
pub use slicewise::{resample_label_slices, resample_slices};
