//! Statistics of images and structures.

mod counts;
pub mod histogram;
pub mod hounsfield;
pub mod structures;
pub mod totalsegmentator;
