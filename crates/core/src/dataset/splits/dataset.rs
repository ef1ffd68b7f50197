//! The folds of a dataset: predefined in a file, or assigned by ctseg.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{NamedSplit, PredefinedSplits, SPLITS};
use crate::dataset::layouts::meta_csv_splits;
use crate::dataset::{Dataset, Layout, Split};
use crate::recipe::Recipe;
use ctseg_base::progress::Observer;
use ctseg_base::{Error, Result};

/// nnU-Net's folder for preprocessed datasets, next to that of the raw datasets.
const PREPROCESSED: &str = "nnUNet_preprocessed";

impl Dataset {
    /// The folds of nnU-Net's `splits_final.json` with notes, one per line; none without such a file. It is read from
    /// the dataset's folder or otherwise, for `DatasetNNN_Name`, from the folder of that name in `preprocessed` or in
    /// `nnUNet_preprocessed` next to the folder of raw datasets.
    ///
    /// # Errors
    /// A file that cannot be read; ids that are not training cases; a fold with an empty set, or with a case
    /// or patient in both sets.
    pub fn predefined_splits(
        &self,
        preprocessed: Option<&Path>,
    ) -> Result<Option<(PredefinedSplits, Vec<String>)>> {
        let files = self.split_files(preprocessed);
        let mut existing = files.into_iter().filter(|file| file.is_file());
        let Some(file) = existing.next() else {
            return Ok(None);
        };
        let splits = PredefinedSplits::read(file)?;
        let mut notes = splits.checked(self)?;
        let differs = |other: &PathBuf| {
            PredefinedSplits::read(other.clone()).map_or(true, |other| other.folds != splits.folds)
        };
        if let Some(other) = existing.find(differs) {
            notes.push(format!(
                "{} has other folds than {} and is ignored",
                other.display(),
                splits.file.display()
            ));
        }
        Ok(Some((splits, notes)))
    }

    /// Possible paths of `splits_final.json`, in order of precedence.
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
        let base = root.parent().and_then(Path::parent);
        let default = base.map(|base| base.join(PREPROCESSED));
        let folders = preprocessed.map(Path::to_path_buf).into_iter();
        files.extend(
            folders
                .chain(default)
                .map(|folder| folder.join(name).join(SPLITS)),
        );
        files
    }

    /// Makes [`Dataset::split`] use [`Dataset::predefined_splits`], tells `observer`, and returns `recipe` with their
    /// number of folds.
    ///
    /// # Errors
    /// As [`Dataset::predefined_splits`]; a recipe that trains a fold that does not exist.
    pub fn use_predefined_splits(
        &mut self,
        mut recipe: Recipe,
        preprocessed: Option<&Path>,
        observer: &dyn Observer,
    ) -> Result<Recipe> {
        let Some((splits, notes)) = self.predefined_splits(preprocessed)? else {
            return Ok(recipe);
        };
        let (folds, file) = (splits.folds.len(), splits.file.display().to_string());
        observer.info(&match folds == recipe.folds {
            true => format!("using the {folds} folds of {file}"),
            false => format!(
                "using the {folds} folds of {file} instead of the recipe's {}",
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
                "train_folds names fold {fold}, but {file} has {folds} folds, numbered from 0"
            )));
        }
        recipe.folds = folds;
        self.splits = Some(splits);
        Ok(recipe)
    }

    /// One of the predefined folds as case indices.
    ///
    /// # Errors
    /// No such fold, or a case that is not a training case of the dataset.
    pub fn predefined_split(&self, splits: &PredefinedSplits, fold: usize) -> Result<Split> {
        let named = splits.folds.get(fold).ok_or_else(|| {
            Error::file(
                &splits.file,
                format!(
                    "has no fold {fold}; expected 0 to {}",
                    splits.folds.len().saturating_sub(1)
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
                        &splits.file,
                        format!(
                            "fold {fold} names case '{id}', which is not a training case of dataset '{}'; restore the case",
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

    /// [`Dataset::split`] for each of `k` folds, as case ids.
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

    /// The published fold in TotalSegmentator's `meta.csv`, reduced to the cases present.
    pub fn published_split(&self) -> Result<Option<NamedSplit>> {
        let table = self.root.join("meta.csv");
        if self.layout != Layout::TotalSegmentator || !table.is_file() {
            return Ok(None);
        }
        let sets = meta_csv_splits(&table)?;
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
