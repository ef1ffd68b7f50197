//! TODO

pub mod choose_postprocessing;
pub mod cross_validation;
pub mod data;
pub mod diagnosis;
pub mod fit;
pub mod overlays;
pub mod plan;
pub mod sweep;
pub mod trainer;
