//! Recipes, datasets, runs, models, two-stage inference on a volume, and output files.

#![deny(unsafe_code)] // not `forbid`: ndarray's `s!` contains an `allow`

pub mod dataset;
pub mod inference;
pub mod model;
pub mod outputs;
pub mod recipe;
pub mod run;
