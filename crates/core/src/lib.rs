//! Where images meet networks: recipes, datasets, runs, models, inference with both stages on a volume, output files.

#![deny(unsafe_code)] // not forbid: ndarray's `s!` allows it for itself

pub mod dataset;
pub mod inference;
pub mod model;
pub mod outputs;
pub mod recipe;
pub mod run;
