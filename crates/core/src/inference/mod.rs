//! Inference on whole volumes: sliding window, region of interest, both stages, logits to labels.

pub mod attention;
mod batching;
pub mod cascade;
pub mod coarse_result;
pub mod coarse_stage;
pub mod export_logits;
pub mod load_options;
mod loaded_model;
pub mod memory;
pub mod memory_estimate;
pub mod memory_limit;
mod memory_of_input;
pub(crate) mod multi_part;
pub mod nnunet;
mod patch_grid;
pub mod predictor;
pub mod roi;
mod rough_crop;
pub mod sliding_window;
pub mod stage;
pub mod test_time_augmentation;
pub mod threshold;
