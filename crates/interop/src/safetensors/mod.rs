//! Export to safetensors.

pub mod weights;
