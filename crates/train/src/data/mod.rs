//! Training data: cases from disk or cache, patch positions, patches, batches.

pub mod case_source;
pub(crate) mod distance_maps;
mod patch_positions;
pub mod patches;
pub mod preprocessed_cache;
pub mod sampler;
pub(crate) mod stage_loss;
