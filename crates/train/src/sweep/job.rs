//! The settings of a sweep, their file, and the trials derived from them.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

use super::table::TrialRow;
use crate::data::preprocessed_cache::PreprocessedCache;
use ctseg_base::atomic_file::write_bytes_atomically;
use ctseg_base::text::file::read_text;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::content::DatasetContent;
use ctseg_core::dataset::{Dataset, Reading};
use ctseg_core::recipe::{Recipe, one_line};
use ctseg_core::run::folder::new_folder;
use ctseg_core::run::tracker::Tracker;
use ctseg_engine::device::Compute;

pub const FILE: &str = "sweep.toml";

/// More trials than this are taken for a mistake on the command line.
const MAX_TRIALS: usize = 1000;

/// The settings of a sweep, stored in its folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SweepSettings {
    /// The varied keys with their values: `key=value,value`, in command-line order.
    pub vary: Vec<String>,
    pub rungs: usize,
    /// One in `eta` trials is promoted after each rung.
    pub eta: usize,
    pub dataset: PathBuf,
    pub data_root: Option<PathBuf>,
    /// The model with the stage 1 for a stage 2.
    pub model: PathBuf,
    pub seed: u64,
    /// How the dataset's files are read.
    #[serde(default, skip_serializing_if = "Reading::is_default")]
    pub reading: Reading,
    /// The recipe shared by all trials.
    pub recipe: Recipe,
}

pub struct SweepJob<'a> {
    pub folder: PathBuf,
    pub settings: SweepSettings,
    pub dataset: Dataset,
    /// The content of the checked dataset.
    pub content: DatasetContent,
    pub compute: Compute,
    pub stop: &'a AtomicBool,
    /// Cache of preprocessed cases on disk, shared by the trials.
    pub preprocessed_cache: Option<&'a PreprocessedCache>,
    pub trackers: &'a [&'a dyn Tracker],
    /// See [`crate::fit::FitJob::tags`].
    pub tags: Vec<(String, String)>,
    /// Called with the table whenever a trial has paused or ended.
    pub on_update: &'a dyn Fn(&[TrialRow]) -> Result<()>,
}

/// One combination of settings.
pub(super) struct TrialConfig {
    /// At least three digits, from 000.
    pub name: String,
    /// `key=value` for every varied key.
    pub set: Vec<String>,
    pub recipe: Recipe,
}

impl SweepSettings {
    /// Creates a folder for the sweep below `runs`, with these settings in it.
    ///
    /// # Errors
    /// Invalid settings, and I/O errors.
    pub fn create(&self, runs: &Path) -> Result<PathBuf> {
        self.trial_configs()?;
        let folder = new_folder(runs, &format!("sweep-{}", self.recipe.name))?;
        self.write(&folder)?;
        Ok(folder)
    }

    /// Writes the settings into the sweep's folder.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        let text = toml::to_string(self)
            .map_err(|error| Error::file(&path, format!("cannot write the settings: {error}")))?;
        write_bytes_atomically(&path, text.as_bytes())
    }

    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let text = read_text(&path).map_err(Error::io(&path, "read"))?;
        toml::from_str(&text).map_err(|error| Error::file(&path, one_line(&error)))
    }

    /// Every combination of the varied values; the last key changes fastest.
    ///
    /// # Errors
    /// A key without values, a value that is invalid in the recipe, too many trials, no rung.
    pub(super) fn trial_configs(&self) -> Result<Vec<TrialConfig>> {
        if self.rungs == 0 || self.eta < 2 {
            return Err(Error::usage(
                "a sweep needs --rungs 1 or more and --eta 2 or more",
            ));
        }
        let mut combinations: Vec<Vec<String>> = vec![Vec::new()];
        for vary in &self.vary {
            let (key, values) = split(vary)?;
            combinations = combinations
                .iter()
                .flat_map(|before| {
                    values.iter().map(|value| {
                        let mut set = before.clone();
                        set.push(format!("{key}={value}"));
                        set
                    })
                })
                .collect();
            if combinations.len() > MAX_TRIALS {
                return Err(Error::usage(format!(
                    "the sweep has more than {MAX_TRIALS} trials; vary fewer keys or values"
                )));
            }
        }
        let base = self.recipe.to_toml()?;
        let config = |(index, set): (usize, Vec<String>)| {
            let origin = format!("--vary {}", set.join(" "));
            let recipe = Recipe::parsed(&base, &origin, &set)?;
            if recipe.stage != self.recipe.stage || recipe.folds != self.recipe.folds {
                return Err(Error::usage(format!(
                    "{origin}: trials with different stages or folds cannot be compared; do not vary these keys"
                )));
            }
            let name = format!("{index:03}");
            Ok(TrialConfig { name, set, recipe })
        };
        combinations.into_iter().enumerate().map(config).collect()
    }

    /// The number of trials; errors as in [`SweepSettings::create`].
    pub fn trials(&self) -> Result<usize> {
        Ok(self.trial_configs()?.len())
    }

    /// The number of epochs of a trial after each rung.
    pub(super) fn rung_epochs(&self) -> Vec<usize> {
        let epochs = self.recipe.training.epochs;
        let epochs_of = |rung: usize| {
            let share = (rung + 1..self.rungs).fold(1.0, |share, _| share / self.eta as f64);
            ((epochs as f64 * share).round() as usize).clamp(1, epochs)
        };
        (0..self.rungs).map(epochs_of).collect()
    }
}

/// The key and the values of `key=value,value`; commas within brackets or quotes do not separate values.
fn split(vary: &str) -> Result<(&str, Vec<&str>)> {
    let wrong = || {
        Error::usage(format!(
            "--vary {vary}: expected key=value,value, such as training.optimiser.learning_rate=1e-2,1e-3"
        ))
    };
    let (key, text) = vary.split_once('=').ok_or_else(wrong)?;
    let (mut values, mut from, mut depth, mut quote) = (Vec::new(), 0, 0usize, None);
    for (at, letter) in text.char_indices() {
        match (letter, quote) {
            ('"' | '\'', None) => quote = Some(letter),
            (letter, Some(open)) if letter == open => quote = None,
            ('[' | '{', None) => depth += 1,
            (']' | '}', None) => depth = depth.saturating_sub(1),
            (',', None) if depth == 0 => {
                values.push(text[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    values.push(text[from..].trim());
    if key.trim().is_empty() || values.contains(&"") {
        return Err(wrong());
    }
    Ok((key.trim(), values))
}
