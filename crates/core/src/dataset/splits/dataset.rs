//! The folds that a dataset has: those that a file gives, or those that are dealt out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{GivenSplits, NamedSplit, SPLITS};
use crate::dataset::layouts::sets_of_meta;
use crate::dataset::{Dataset, Layout, Split};
use crate::recipe::Recipe;
use ctseg_base::progress::Observer;
use ctseg_base::{Error, Result};

/// The folder that nnU-Net keeps preprocessed cases in, beside that of the raw datasets.
const PREPROCESSED: &str = "nnUNet_preprocessed";

impl Dataset {
    /// The folds of nnU-Net's `splits_final.json`: that in the dataset's folder or else, for `DatasetNNN_Name`, that of
    /// the same name below `preprocessed` or below `nnUNet_preprocessed` beside the folder of raw datasets. With them
    /// what is worth knowing, a line each. None where there is no such file.
    ///
    /// # Errors
    /// A file that cannot be read; ids that are not those of training cases; a fold with an empty side, or with a case
    /// or patient on both sides.
    pub fn given_splits(
        &self,
        preprocessed: Option<&Path>,
    ) -> Result<Option<(GivenSplits, Vec<String>)>> {
        let files = self.split_files(preprocessed);
        let mut there = files.into_iter().filter(|file| file.is_file());
        let Some(file) = there.next() else {
            return Ok(None);
        };
        let given = GivenSplits::read(file)?;
        let mut notes = given.checked(self)?;
        let differs = |other: &PathBuf| {
            GivenSplits::read(other.clone()).map_or(true, |other| other.folds != given.folds)
        };
        if let Some(other) = there.find(differs) {
            notes.push(format!(
                "{} has other folds than {} and is not used",
                other.display(),
                given.file.display()
            ));
        }
        Ok(Some((given, notes)))
    }

    /// Where `splits_final.json` may lie, the first one first.
    fn split_files(&self, preprocessed: Option<&Path>) -> Vec<PathBuf> {
        let mut files = vec![self.root.join(SPLITS)];
        let root = self
            .root
            .canonicalize()
            .unwrap_or_else(|_| self.root.clone());
        let name = root.file_name().and_then(|name| name.to_str());
        let Some(name) = name.filter(|name| name.starts_with("Dataset")) else {
            return files;
        };
        let beside = root.parent().and_then(Path::parent);
        let beside = beside.map(|above| above.join(PREPROCESSED));
        let folders = preprocessed.map(Path::to_path_buf).into_iter();
        files.extend(
            folders
                .chain(beside)
                .map(|folder| folder.join(name).join(SPLITS)),
        );
        files
    }

    /// Makes [`Dataset::split`] give the folds of [`Dataset::given_splits`], and says so; `recipe` with as many folds.
    ///
    /// # Errors
    /// As [`Dataset::given_splits`]; a recipe that trains folds that are not there.
    pub fn use_given_splits(
        &mut self,
        mut recipe: Recipe,
        preprocessed: Option<&Path>,
        observer: &dyn Observer,
    ) -> Result<Recipe> {
        let Some((given, notes)) = self.given_splits(preprocessed)? else {
            return Ok(recipe);
        };
        let (folds, file) = (given.folds.len(), given.file.display().to_string());
        observer.say(&match folds == recipe.folds {
            true => format!("folds: the {folds} of {file}"),
            false => format!(
                "folds: the {folds} of {file}, instead of the recipe's {}",
                recipe.folds
            ),
        });
        for note in notes {
            observer.warn(&note);
        }
        if let Some(wanted) = &recipe.train_folds
            && let Some(fold) = wanted.iter().find(|fold| **fold >= folds)
        {
            return Err(Error::usage(format!(
                "there is no fold {fold}: {file} has {folds}, numbered from 0"
            )));
        }
        recipe.folds = folds;
        self.splits = Some(given);
        Ok(recipe)
    }

    /// One of the given folds as indices of cases.
    ///
    /// # Errors
    /// No such fold, or a case that is no training case of the dataset.
    pub fn given_split(&self, given: &GivenSplits, fold: usize) -> Result<Split> {
        let named = given.folds.get(fold).ok_or_else(|| {
            Error::file(
                &given.file,
                format!(
                    "has no fold {fold}; expected 0 to {}",
                    given.folds.len().saturating_sub(1)
                ),
            )
        })?;
        let known: BTreeMap<&str, usize> = self
            .training_cases()
            .into_iter()
            .map(|index| (self.cases[index].id.as_str(), index))
            .collect();
        let indices = |ids: &[String]| {
            let found = ids.iter().map(|id| {
                known.get(id.as_str()).copied().ok_or_else(|| {
                    Error::file(
                        &given.file,
                        format!(
                            "fold {fold} names case '{id}', which dataset '{}' does not have as a training case; restore the case",
                            self.name
                        ),
                    )
                })
            });
            let mut found = found.collect::<Result<Vec<_>>>()?;
            found.sort_unstable();
            Ok::<_, Error>(found)
        };
        Ok(Split {
            train: indices(&named.train)?,
            validation: indices(&named.validation)?,
        })
    }

    /// [`Dataset::split`] for each of `k` folds, by the ids of the cases.
    pub fn named_splits(&self, k: usize, seed: u64) -> Result<Vec<NamedSplit>> {
        let ids = |indices: &[usize]| {
            let ids = indices.iter().map(|index| self.cases[*index].id.clone());
            ids.collect()
        };
        (0..k)
            .map(|fold| {
                let split = self.split(k, fold, seed)?;
                Ok(NamedSplit {
                    train: ids(&split.train),
                    validation: ids(&split.validation),
                })
            })
            .collect()
    }

    /// The one fold of training and validation cases in TotalSegmentator's `meta.csv`, as far as its cases are there.
    pub fn published_split(&self) -> Result<Option<NamedSplit>> {
        let table = self.root.join("meta.csv");
        if self.layout != Layout::TotalSegmentator || !table.is_file() {
            return Ok(None);
        }
        let sets = sets_of_meta(&table)?;
        let trained: BTreeSet<&str> = self
            .training_cases()
            .into_iter()
            .map(|index| self.cases[index].id.as_str())
            .collect();
        let of = |wanted: &str| -> Vec<String> {
            let ids = sets.iter().filter(|(_, set)| set == wanted);
            let ids = ids.filter(|(id, _)| trained.contains(id.as_str()));
            ids.map(|(id, _)| id.clone()).collect()
        };
        let split = NamedSplit {
            train: of("train"),
            validation: of("val"),
        };
        Ok(Some(split).filter(|split| !split.train.is_empty() && !split.validation.is_empty()))
    }
}
