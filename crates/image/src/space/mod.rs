//! The values everything else is made of: grids, boxes, volumes and label maps. No I/O, no numerics.

mod affine;
mod grid;
mod grid_comparison;
mod label_colours;
mod orientation;
mod turn;
mod volume;
mod voxel_box;

pub use affine::Affine;
pub use grid::{AxisMap, Grid, GridMap};
pub use grid_comparison::{GridTolerance, Remark};
pub use label_colours::label_colour;
pub use orientation::Orientation;
pub use turn::Turn;
pub use volume::{LabelMap, Volume};
pub use voxel_box::VoxelBox;
