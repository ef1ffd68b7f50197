//! Volumes as nnU-Net's networks see them.

pub mod placement;
pub mod preprocess;
pub mod previous_stage;
