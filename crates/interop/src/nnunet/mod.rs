//! nnU-Net's models: their files read and written, and what their use needs that ctseg's own models do not.

mod checkpoint;
mod dataset_json;
mod export;
mod export_checks;
mod export_plans;
mod export_weights;
mod import;
mod keys;
mod network;
mod plans;
mod read;
mod source;
mod stage_recipe;

pub use export::{DatasetName, export_model};
pub use import::{ImportOptions, Imported, ImportedStage, import_model};
pub use read::read_model;
