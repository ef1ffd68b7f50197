//! Everything that computes on plain arrays: file formats, resampling, preprocessing, components, clean-up, metrics,
//! phantoms. Knows nothing of networks.

mod connectivity;
pub mod formats;
pub mod labels;
pub mod metrics;
pub mod nifti;
pub mod preprocess;
pub mod resample;
pub mod space;
pub mod statistics;
mod window;
