//! Augmentation of training patches in the axial plane: cut, turned, scaled and deformed in one resampling from
//! the whole slice, so that tissue and not padding comes in at the border, then changed in intensity. A seed
//! per patch decides everything, and every kind of change draws from a stream of its own: switched on or off, it
//! changes nothing about the others.

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

pub use crate::config::{Augmentation, FlipAxis};
pub use crate::elastic::Field;
pub use crate::hounsfield::Hounsfield;
pub use crate::placement::{Placement, Turn};
pub use crate::slice::{Cut, SliceSource};
pub use crate::space::{SpacePlacement, SpaceTurn};
pub use crate::volume::{VolumeCut, VolumeSource};
