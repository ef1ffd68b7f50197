//! A sweep: its settings, their file, and the trials that follow from them.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

use super::table::TrialRow;
use crate::data::preprocessed_cache::CaseStore;
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

/// More trials than this are a mistake on the command line.
const MOST_TRIALS: usize = 1000;

/// What a sweep is, as written in its folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SweepSettings {
    /// What is varied: `key=value,value`, in the order of the command line.
    pub vary: Vec<String>,
    pub rungs: usize,
    /// One in so many trials goes on after each rung.
    pub eta: usize,
    pub dataset: PathBuf,
    pub data_root: Option<PathBuf>,
    /// The model whose stage 1 a stage 2 is trained on.
    pub model: PathBuf,
    pub seed: u64,
    /// How the dataset's files are read.
    #[serde(default, skip_serializing_if = "Reading::is_default")]
    pub reading: Reading,
    /// The recipe that all trials share.
    pub recipe: Recipe,
}

/// A sweep to be done.
pub struct SweepJob<'a> {
    pub folder: PathBuf,
    pub settings: SweepSettings,
    pub dataset: Dataset,
    /// Of a check that found no problem.
    pub content: DatasetContent,
    pub compute: Compute,
    pub stop: &'a AtomicBool,
    /// Where prepared cases are kept on disk; the trials share it.
    pub case_store: Option<&'a CaseStore>,
    pub trackers: &'a [&'a dyn Tracker],
    /// See [`crate::fit::FitJob::tags`].
    pub tags: Vec<(String, String)>,
    /// Sees the table whenever a trial has paused or ended.
    pub seen: &'a dyn Fn(&[TrialRow]) -> Result<()>,
}

/// One combination of settings.
pub(super) struct Candidate {
    /// Three digits or more, from 000 on.
    pub name: String,
    /// `key=value` for everything that is varied.
    pub set: Vec<String>,
    pub recipe: Recipe,
}

impl SweepSettings {
    /// A new folder for the sweep below `runs`, with these settings in it.
    ///
    /// # Errors
    /// Settings that cannot work, and whatever the file system refuses.
    pub fn begin(&self, runs: &Path) -> Result<PathBuf> {
        self.candidates()?;
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

    /// The settings of the sweep in `folder`.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let text = read_text(&path).map_err(Error::io(&path, "read"))?;
        toml::from_str(&text).map_err(|error| Error::file(&path, one_line(&error)))
    }

    /// Every combination of what is varied, the last key changing fastest.
    ///
    /// # Errors
    /// A key without values, a value that the recipe cannot have, too many trials, no rung.
    pub(super) fn candidates(&self) -> Result<Vec<Candidate>> {
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
            if combinations.len() > MOST_TRIALS {
                return Err(Error::usage(format!(
                    "a sweep of more than {MOST_TRIALS} trials; vary less at a time"
                )));
            }
        }
        let base = self.recipe.to_toml()?;
        let candidate = |(index, set): (usize, Vec<String>)| {
            let origin = format!("--vary {}", set.join(" "));
            let recipe = Recipe::parsed(&base, &origin, &set)?;
            if recipe.stage != self.recipe.stage || recipe.folds != self.recipe.folds {
                return Err(Error::usage(format!(
                    "{origin}: trials with other stages or folds cannot be compared"
                )));
            }
            let name = format!("{index:03}");
            Ok(Candidate { name, set, recipe })
        };
        combinations
            .into_iter()
            .enumerate()
            .map(candidate)
            .collect()
    }

    /// How many trials it has; for its errors see [`SweepSettings::begin`].
    pub fn trials(&self) -> Result<usize> {
        Ok(self.candidates()?.len())
    }

    /// How many epochs a trial has after each rung.
    pub(super) fn budgets(&self) -> Vec<usize> {
        let epochs = self.recipe.training.epochs;
        let budget = |rung: usize| {
            let share = (rung + 1..self.rungs).fold(1.0, |share, _| share / self.eta as f64);
            ((epochs as f64 * share).round() as usize).clamp(1, epochs)
        };
        (0..self.rungs).map(budget).collect()
    }
}

/// The key and the values of `key=value,value`; commas within brackets or quotes part nothing.
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
