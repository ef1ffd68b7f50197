//! Import and export of nnU-Net models.

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
