//! Statistics of images and structures.

mod counts;
pub mod histogram;
pub mod hounsfield;
pub mod structures;
mod suspicion;
pub mod totalsegmentator;
