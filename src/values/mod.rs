//! The values everything else is made of: grids, boxes, volumes and label maps. No I/O, no numerics.

mod colour;
mod grid;
mod orientation;
mod region;
mod volume;

pub use colour::label_colour;
pub use grid::{Affine, AxisMap, Grid, GridMap};
pub use orientation::Orientation;
pub use region::VoxelBox;
pub use volume::{LabelMap, Volume};
