//! Basic types: grids, boxes, volumes and label maps. No I/O, no numerics.

mod affine;
mod grid;
mod grid_comparison;
mod label_colours;
mod orientation;
mod reorientation;
mod volume;
mod voxel_box;

pub use affine::Affine;
pub use grid::{AxisMap, Grid, GridMap};
pub use grid_comparison::{GridMismatch, GridTolerance};
pub use label_colours::label_colour;
pub use orientation::Orientation;
pub use reorientation::Reorientation;
pub use volume::{LabelMap, Volume};
pub use voxel_box::VoxelBox;
