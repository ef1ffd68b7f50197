//! The content of a report from a training run.

use std::path::{Path, PathBuf};

use ctseg_base::text::file::read_text;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::Dataset;
use ctseg_core::dataset::reference::Reference;
use ctseg_core::recipe::{Recipe, Target};
use ctseg_core::run::folder::{RunFolder, RunSettings};
use ctseg_core::run::history;
use ctseg_core::run::history::History;
use ctseg_train::diagnosis::{Diagnosis, diagnose};

/// The file that marks a run folder.
const RECIPE: &str = "recipe.toml";

/// The folder with a run's held-out predictions and their evaluation.
const HELD_OUT: &str = "out_of_fold";

/// One run folder.
#[derive(Debug, Clone)]
pub struct RunFacts {
    pub path: PathBuf,
    pub name: String,
    /// The content of `recipe.toml`.
    pub recipe_text: String,
    /// `None` if the recipe cannot be parsed, for example from another version of ctseg.
    pub known: Option<(Recipe, RunSettings)>,
    pub history: History,
    pub diagnoses: Vec<Diagnosis>,
    /// Names of the structures in the history's Dice values; empty if the dataset no longer exists.
    pub structures: Vec<String>,
    dataset: Option<Dataset>,
}

/// Whether the folder is a run folder.
pub fn is_run(folder: &Path) -> bool {
    folder.join(RECIPE).is_file() && folder.join("run.toml").is_file()
}

impl RunFacts {
    /// Reads a run folder without changing it.
    ///
    /// # Errors
    /// The recipe or the metrics cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let file = path.join(RECIPE);
        let recipe_text = read_text(&file).map_err(Error::io(&file, "read"))?;
        let known = RunFolder::read(path).ok();
        let history = history::read(path)?;
        let diagnoses = known.as_ref().map_or_else(Vec::new, |(recipe, _)| {
            let networks = history.iter();
            networks
                .map(|(network, lines)| diagnose(network, lines, recipe))
                .collect()
        });
        let dataset = known.as_ref().and_then(|(_, settings)| {
            let opened = Dataset::open_in(&settings.dataset, settings.data_root.as_deref());
            Some(Dataset {
                reading: settings.reading,
                ..opened.ok()?
            })
        });
        let measured = history.values().flatten().next();
        let measured = measured.map_or(0, |line| line.validation_dice_per_structure.len());
        let names = dataset.iter().flat_map(|dataset| &dataset.structures);
        let mut structures: Vec<String> = names.map(|s| s.name.clone()).collect();
        if structures.len() != measured {
            structures.clear(); // trained on the union, or the dataset has changed
        }
        // `.` has no file name.
        let whole = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let name = whole.file_name().unwrap_or(whole.as_os_str());
        Ok(Self {
            path: path.to_path_buf(),
            name: name.to_string_lossy().into_owned(),
            recipe_text,
            known,
            history,
            diagnoses,
            structures,
            dataset,
        })
    }

    /// The folder with the evaluation of the held-out cases, if it exists.
    pub fn evaluation(&self) -> Option<PathBuf> {
        let folder = self.path.join(HELD_OUT);
        folder.join(super::table::FILE).is_file().then_some(folder)
    }

    /// The reference of the held-out cases; `None` if the dataset no longer exists.
    pub fn reference(&self) -> Option<Reference> {
        let (recipe, _) = self.known.as_ref()?;
        let dataset = self.dataset.clone()?;
        Some(match recipe.structures {
            Target::Union => Reference::Union(dataset),
            Target::Each => Reference::Dataset(dataset),
        })
    }
}
