//! Everything that computes on plain arrays: file formats, resampling, preprocessing, components, clean-up, metrics,
//! phantoms. Knows nothing of networks.

pub mod aggregate;
pub mod augmentation;
pub mod components;
mod connectivity;
pub mod detection;
pub mod distance;
pub mod extents;
pub mod formats;
pub mod gaussian;
pub mod histogram;
pub mod label_runs;
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
pub mod surface;
pub mod totalseg_statistics;
pub mod wilcoxon;
mod window;
