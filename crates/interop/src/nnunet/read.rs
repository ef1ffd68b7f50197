//! Reads a model for import, without checking its weights against a network.

use std::path::Path;

use super::checkpoint::Checkpoint;
use super::import::{Folder, ImportOptions};
use ctseg_base::{Error, Result};
use ctseg_core::recipe::Recipe;
use ctseg_engine::weights::NamedTensors;

/// The recipe of the model in `folder`, and the weights of its first fold.
///
/// # Errors
/// See [`import_model`](super::import_model).
pub fn read_model(folder: &Path) -> Result<(Recipe, NamedTensors)> {
    let opened = Folder::open(folder, &ImportOptions::default())?;
    let first = opened.checkpoints.first();
    let (_, file) = first.ok_or_else(|| Error::file(folder, "has no folds"))?;
    let mut checkpoint = Checkpoint::open(file)?;
    let recipe = opened.recipe(2, &checkpoint)?;
    let weights = opened.weights(&mut checkpoint, file, &recipe)?;
    Ok((recipe, weights))
}
