//! Runs: what they are trained on, and how they are resumed.

mod resumed;
mod training_data;
