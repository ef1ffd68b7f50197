//! Training: preprocessed cases, patches and batches, the trainer, `fit` from dataset to model, planning, sweeps.

#![deny(unsafe_code)] // not forbid: ndarray's `s!` allows it for itself

pub mod choose_postprocessing;
pub mod cross_validation;
pub mod data;
pub mod diagnosis;
pub mod fit;
pub mod overlays;
pub mod plan;
pub mod sweep;
pub mod trainer;
