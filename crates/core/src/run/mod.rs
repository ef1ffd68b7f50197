//! A training run on disk: its folder, history, checkpoints and state.

pub mod checkpoint;
pub mod data;
mod early_stopping;
pub mod folder;
pub mod history;
pub mod metric_names;
pub mod parameters;
pub mod plateau;
mod progress;
pub mod state_file;
pub mod tracker;
pub mod validation;
