//! Volumes of medical images: grids, file formats, resampling, label operations, metrics, statistics. Knows no network.

#![deny(unsafe_code)] // not forbid: ndarray's `s!` allows it for itself

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
