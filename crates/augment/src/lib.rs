//! Augmentation of training patches: cropped, rotated, scaled and deformed in one resampling from the whole slice or
//! volume, so that the border shows tissue and not padding; then changed in intensity. One seed per patch determines
//! everything. Each kind of change has its own random stream: switching one on or off does not affect the others.

#![deny(unsafe_code)] // `simd` calls functions that are compiled for AVX2

mod affine_grid;
mod affine_grid_3d;
mod common;
mod config;
mod draw;
mod dropout;
mod elastic;
mod fast_math;
mod field_of_view;
mod hounsfield;
pub mod intensity;
mod interpolation;
mod plane;
mod simd;
mod slice;
mod streaks;
mod volume;

pub use affine_grid::{AffineGrid, AffineParams};
pub use affine_grid_3d::{AffineGrid3d, AffineParams3d};
pub use config::{Augmentation, FlipAxis};
pub use elastic::DisplacementField;
pub use hounsfield::Hounsfield;
pub use slice::{SliceCrop, SliceSource};
pub use volume::{VolumeCrop, VolumeSource};
