//! Runs: their training data, and how they are resumed.

mod resumed;
mod training_data;
