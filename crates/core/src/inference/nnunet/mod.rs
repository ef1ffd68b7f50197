//! Preprocessing for models imported from nnU-Net.

pub mod placement;
pub mod preprocess;
pub mod previous_stage;
