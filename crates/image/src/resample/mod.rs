//! Resampling from grid to grid: separable, for grids whose axes are parallel.
//!
//! Values are those of SciPy's `ndimage.zoom`/`map_coordinates` with `mode='nearest'`, and so of
//! scikit-image's `resize(mode='edge', anti_aliasing=False)` as nnU-Net calls it. Where the two grids
//! share voxel centres (same grid, permuted, flipped, cropped) voxels are copied, not interpolated.

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
pub use restore::{Restoration, restore, restore_exclusive, restoring_bytes};
pub use slicewise::{resample_label_slices, resample_slices};
