//! The values everything else is made of: grids, boxes, volumes and label maps. No I/O, no numerics.

mod affine;
mod colour;
mod grid;
mod orientation;
mod region;
mod volume;

pub use affine::Affine;
pub use colour::label_colour;
pub use grid::{AxisMap, Grid, GridMap};
pub use orientation::Orientation;
pub use region::VoxelBox;
pub use volume::{LabelMap, Volume};
