//! Statistics of images and structures.

pub mod histogram;
pub mod hounsfield;
pub mod structures;
pub mod totalsegmentator;
