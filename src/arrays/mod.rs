//! Everything that computes on plain arrays: file formats, resampling, preprocessing, components, clean-up, metrics,
//! phantoms. Knows nothing of networks.

pub mod augmentation;
pub mod components;
pub mod distance;
mod gaussian;
pub mod histogram;
pub mod metrics;
pub mod nifti;
pub mod normalisation;
pub mod phantom;
pub mod postprocess;
pub mod preprocess;
pub mod reliability;
pub mod resample;
pub mod run_mask;
pub mod sliding_window;
pub mod statistics;
