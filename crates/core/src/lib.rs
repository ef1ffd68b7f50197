//! Where images meet networks: recipes, datasets, sampling, training, both stages on a volume, batches of
//! volumes, evaluation.

pub mod dataset;
pub mod inference;
pub mod model;
pub mod outputs;
pub mod recipe;
pub mod run;
