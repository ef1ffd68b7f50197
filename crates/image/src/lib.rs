//! Medical image volumes: grids, file formats, resampling, label operations, metrics, statistics. Independent of any
//! network.

#![deny(unsafe_code)] // not `forbid`, which would reject the `allow` in ndarray's `s!`

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
