//! Segmentation metrics: overlap, surface distances, lesions, calibration, summaries and paired tests.

pub mod calibration;
pub mod distance_transform;
pub mod lesions;
pub mod overlap;
pub mod summary;
pub mod surface;
pub mod wilcoxon;
