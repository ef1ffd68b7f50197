//! TODO

pub mod histogram;
pub mod structures;
pub mod totalsegmentator;
