//! Augmentation of training patches in the axial plane: cut, turned, scaled and deformed in one resampling from
//! the whole slice, so that tissue and not padding comes in at the border, then changed in intensity. A seed
//! per patch decides everything, and every kind of change draws from a stream of its own: switched on or off, it
//! changes nothing about the others.

#![deny(unsafe_code)] // `wide` calls functions that are compiled for AVX2

mod change;
mod config;
mod draw;
mod dropout;
mod edge;
mod elastic;
mod fast;
mod hounsfield;
pub mod intensity;
mod placement;
mod plane;
mod sample_positions;
mod slice;
mod space;
mod streaks;
mod volume;
mod wide;

pub use config::{Augmentation, FlipAxis};
pub use elastic::Field;
pub use hounsfield::Hounsfield;
pub use placement::{Placement, Turn};
pub use slice::{Cut, SliceSource};
pub use space::{SpacePlacement, SpaceTurn};
pub use volume::{VolumeCut, VolumeSource};
