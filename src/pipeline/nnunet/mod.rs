//! nnU-Net's models: their files read and written, and what their use needs that ctseg's own models do not.

mod export_checks;

mod checkpoint;
mod dataset_json;
mod export;
mod export_plans;
mod export_weights;
mod import;
mod input;
mod keys;
mod network;
mod placed;
mod plans;
mod previous;
mod source;
mod stage_recipe;

pub use export::{DatasetName, export_model};
pub use import::{ImportOptions, Imported, ImportedStage, import_model};
pub(super) use input::nnunet_input;
pub(super) use placed::Placed;
pub(super) use previous::PreviousStage;
