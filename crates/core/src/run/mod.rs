//! A training run on disk: its folder, history, checkpoints and state.

pub mod checkpoint;
pub mod data;
pub mod folder;
pub mod history;
pub mod metric_names;
pub mod parameters;
pub mod plateau;
pub mod state_file;
pub mod tracker;
mod training_state;
pub mod validation;
