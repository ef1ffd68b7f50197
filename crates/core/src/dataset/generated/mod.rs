//! Generated datasets on disk.

mod generator;
pub mod phantoms;
pub mod slices;

pub(crate) use generator::GeneratedSet;

use std::path::{Path, PathBuf};

use crate::recipe::{GeneratedData, Recipe};
use ctseg_base::Result;
use ctseg_base::progress::Observer;

use phantoms::PhantomSet;
use slices::SliceSet;

/// Generates the recipe's dataset in the working folder, for training without a dataset; returns the path of its
/// descriptor. Tells `observer`.
///
/// # Errors
/// As [`PhantomSet::written`].
pub fn data_for(recipe: &Recipe, observer: &dyn Observer) -> Result<PathBuf> {
    let (what, folder) = match recipe.generated_data {
        GeneratedData::Phantoms => ("phantoms", Path::new("phantoms")),
        GeneratedData::Slices => ("slices", Path::new("phantom-slices")),
    };
    observer.info(&format!(
        "no dataset given (--data, CTSEG_DATA or 'data' in ctseg.toml): training on generated {what} in {}/",
        folder.display()
    ));
    match recipe.generated_data {
        GeneratedData::Phantoms => PhantomSet::default().written(folder, observer),
        GeneratedData::Slices => SliceSet::default().written(folder, observer),
    }
}
