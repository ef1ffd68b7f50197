//! A trained model on disk: recipes, labels, weights and their checksums in one folder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::check::check;
use super::folder::{SUMS, read_sums, verified_sums, write_sums};
use super::manifest::{MANIFEST, Manifest, StageManifest, fold_prefix, weights_file};
use super::multi_part_manifest as parted;
use super::postprocessing::Postprocessing;
use crate::dataset::Structure;
use crate::recipe::Region;
use ctseg_base::atomic_file::{parent_of, refuse_file, write_bytes_atomically};
use ctseg_base::hash::file_sha256;
use ctseg_base::replace_folder::{read_whole, replace_folder, restore};
use ctseg_base::temp_files::temporary_folder;
use ctseg_base::text::file::read_text;
use ctseg_base::{Error, Result, regular_file};
use ctseg_engine::quantisation::InputRanges;
use ctseg_engine::weights::{NamedTensors, below_prefix, prefixed, read_tensors, write_tensors};

const FORMAT: u32 = 2;

/// A stage as it goes into a bundle.
pub struct TrainedStage {
    pub manifest: StageManifest,
    /// Weights of each of the manifest's folds, in their order.
    pub weights: Vec<NamedTensors>,
}

/// What was taken out of a bundle when a stage was put into it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replaced {
    /// The stage 2 that was trained on another stage 1.
    pub stage2: bool,
    /// Folds of the stage that were trained with another recipe, other data or another seed, and not trained anew.
    pub folds: Vec<usize>,
}

/// A bundle on disk whose checksums have been verified.
#[derive(Debug, Clone)]
pub struct Bundle {
    pub path: PathBuf,
    pub manifest: Manifest,
    /// SHA-256 by file name.
    sums: BTreeMap<String, String>,
}

impl Bundle {
    /// Opens a bundle and verifies every checksum; nothing in it is executed. One that a killed process set aside is put
    /// back first.
    ///
    /// # Errors
    /// A file that is missing, changed, or not of this format; a recipe that no network could be trained with, or whose
    /// network is larger than the weights.
    pub fn open(path: &Path) -> Result<Self> {
        read_whole(path, || Self::opened(path))
    }

    fn opened(path: &Path) -> Result<Self> {
        let manifest_path = path.join(MANIFEST);
        if path.join(parted::MANIFEST).is_file() {
            return Err(Error::file(
                path,
                "is a model of several parts, and this takes one of them: expected the folder of a part, which lies in it",
            ));
        }
        if !manifest_path.is_file() {
            return Err(Error::file(
                path,
                "no model here (model.toml is missing); train one with 'ctseg fit --stage 1' or name its folder with --model",
            ));
        }
        let sums = verified_sums(path)?;
        let manifest = read_manifest(&manifest_path)?;
        let stages = [
            (1, manifest.stage1.is_some()),
            (2, manifest.stage2.is_some()),
        ];
        let needed = stages
            .iter()
            .filter(|(_, there)| *there)
            .map(|(stage, _)| weights_file(*stage));
        for name in needed.chain([MANIFEST.to_owned()]) {
            if !sums.contains_key(&name) {
                return Err(Error::file(
                    path.join(SUMS),
                    format!("{name} has no checksum; the model is damaged"),
                ));
            }
        }
        let bundle = Self {
            path: path.to_path_buf(),
            manifest,
            sums,
        };
        let values: Vec<u16> = bundle.structures()?.iter().map(|s| s.value).collect();
        check(path, &bundle.manifest, &values)?;
        Ok(bundle)
    }

    /// One hash for the whole model.
    pub fn sha256(&self) -> String {
        let mut hasher = Sha256::new();
        for (name, sum) in &self.sums {
            hasher.update(format!("{sum}  {name}\n"));
        }
        format!("{:x}", hasher.finalize())
    }

    /// The checksum of a stage's weights.
    pub fn stage_sha256(&self, stage: u8) -> Option<&str> {
        self.sums.get(&weights_file(stage)).map(String::as_str)
    }

    /// The structures, ascending by value.
    pub fn structures(&self) -> Result<Vec<Structure>> {
        let mut structures = self
            .manifest
            .structures
            .iter()
            .map(|(value, name)| {
                let value = value.parse().map_err(|_| {
                    Error::file(
                        self.path.join(MANIFEST),
                        format!("structure value '{value}' is not a whole number"),
                    )
                })?;
                Ok(Structure {
                    value,
                    name: name.clone(),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        structures.sort_by_key(|structure| structure.value);
        Ok(structures)
    }

    pub fn stage(&self, stage: u8) -> Option<&StageManifest> {
        match stage {
            1 => self.manifest.stage1.as_ref(),
            _ => self.manifest.stage2.as_ref(),
        }
    }

    /// Writes the bundle anew with what the convolutions of each network of stage 1 and stage 2 take in; a stage
    /// without any stays as it is.
    pub fn keep_input_ranges(&self, ranges: &[Vec<InputRanges>; 2]) -> Result<()> {
        let mut manifest = self.manifest.clone();
        for (stage, ranges) in [1, 2].into_iter().zip(ranges) {
            let folds = manifest.stage_mut(stage).iter_mut();
            for (fold, ranges) in folds.flat_map(|stage| &mut stage.folds).zip(ranges) {
                fold.input_ranges = Some(ranges.clone());
            }
        }
        self.replace_manifest(&manifest)
    }

    /// The weights of a stage's networks, one set per fold in the manifest's order.
    ///
    /// # Errors
    /// The bundle has no such stage, or its file cannot be read.
    pub fn stage_weights(&self, stage: u8) -> Result<Vec<NamedTensors>> {
        let folds = &self.needed_stage(stage)?.folds;
        let tensors = self.tensors(stage)?;
        let of_fold = |fold: usize| below_prefix(&fold_prefix(fold), &tensors);
        Ok(folds.iter().map(|fold| of_fold(fold.fold)).collect())
    }

    /// All tensors of a stage's file.
    ///
    /// # Errors
    /// It cannot be read, or is of another model by now.
    fn tensors(&self, stage: u8) -> Result<NamedTensors> {
        let name = weights_file(stage);
        read_whole(&self.path, || {
            let (tensors, _) = read_tensors(&self.path.join(&name))?;
            // After the weights: a folder is replaced as a whole.
            match read_sums(&self.path)?.get(&name) == self.sums.get(&name) {
                true => Ok(tensors),
                false => Err(Error::file(
                    &self.path,
                    "has been replaced by another model since it was opened; run the command again",
                )),
            }
        })
    }

    /// A stage that must be there.
    ///
    /// # Errors
    /// It is not.
    pub fn needed_stage(&self, stage: u8) -> Result<&StageManifest> {
        self.stage(stage).ok_or_else(|| {
            Error::file(
                &self.path,
                format!("the model has no stage {stage} yet; run 'ctseg fit --stage {stage}'"),
            )
        })
    }

    /// Whether a stage for `structures` can be published at `path`; to be asked before hours of training.
    ///
    /// # Errors
    /// A folder that holds anything but a model, a damaged model, a stage 2 for other structures than the
    /// model's stage 1, a parent folder that cannot be written.
    pub fn check_target(path: &Path, stage: u8, structures: &[Structure]) -> Result<()> {
        drop(temporary_folder(parent_of(path))?);
        let Some(old) = Self::open_if_there(path)? else {
            return Ok(());
        };
        if stage == 2 && old.manifest.stage1.is_some() && old.structures()? != structures {
            return Err(Error::file(
                path,
                "the model's stage 1 was trained for other structures than this dataset has; choose another --model, or train stage 1 on this dataset first",
            ));
        }
        Ok(())
    }

    /// The model at `path`; `None` if there is nothing, or an empty folder.
    fn open_if_there(path: &Path) -> Result<Option<Self>> {
        restore(path)?;
        if !path.exists() {
            return Ok(None);
        }
        refuse_file(path)?;
        let entries = std::fs::read_dir(path).map_err(Error::io(path, "read the folder"))?;
        let names: Vec<String> = entries
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .collect();
        let ours = [
            MANIFEST.to_owned(),
            SUMS.to_owned(),
            weights_file(1),
            weights_file(2),
        ];
        if let Some(other) = names.iter().find(|name| !ours.contains(name)) {
            return Err(Error::file(
                path,
                format!(
                    "holds '{other}', which is no part of a model, and would be replaced as a whole; choose a folder of its own for --model"
                ),
            ));
        }
        if names.is_empty() {
            Ok(None)
        } else {
            Self::open(path).map(Some)
        }
    }

    /// Puts a trained stage into the bundle at `path`, making the bundle if there is none. Folds that the
    /// bundle holds from the same recipe, data and seed stay beside the new ones. When stage 1 changes,
    /// the stage 2 that was trained on the old one is removed. The bundle is
    /// replaced as a whole: killed at any moment, there is an old or a new one.
    pub fn publish(
        path: &Path,
        structures: &[Structure],
        mut stage: TrainedStage,
    ) -> Result<Replaced> {
        let number = stage.manifest.recipe.stage;
        Self::check_target(path, number, structures)?;
        let old = Self::open_if_there(path)?;
        let mut replaced = Replaced::default();
        if let Some(old) = &old {
            replaced.folds = old.add_missing_folds(&mut stage)?;
        }
        let fresh = temporary_folder(parent_of(path))?;
        let mut tensors = NamedTensors::new();
        for (fold, weights) in stage.manifest.folds.iter().zip(stage.weights) {
            tensors.extend(prefixed(&fold_prefix(fold.fold), weights));
        }
        let weights = fresh.path().join(weights_file(number));
        write_tensors(&weights, &tensors, "")?;
        let new_sum = file_sha256(&weights)?;

        let mut manifest = Manifest {
            format: FORMAT,
            ctseg_version: env!("CARGO_PKG_VERSION").to_owned(),
            structures: structures
                .iter()
                .map(|s| (s.value.to_string(), s.name.clone()))
                .collect(),
            stage1: None,
            stage2: None,
            postprocessing: None,
        };
        let other = 3 - number;
        if let Some((old, kept)) = old.as_ref().and_then(|old| Some((old, old.stage(other)?))) {
            // The same weights, whatever the data that they were trained on are called.
            let same_stage1 = || {
                let own = old.stage(1);
                kept.stage1_sha256.as_ref() == Some(&new_sum)
                    && own.is_some_and(|own| own.has_recipe_of(&stage.manifest))
            };
            let still_fits = number == 2 || kept.recipe.region == Region::Whole || same_stage1();
            if still_fits && old.manifest.structures == manifest.structures {
                let from = old.path.join(weights_file(other));
                regular_file::copy(&from, &fresh.path().join(weights_file(other)))
                    .map_err(Error::io(&from, "copy"))?;
                *manifest.stage_mut(other) = Some(kept.clone());
                if other == 2 {
                    manifest.postprocessing = old.manifest.postprocessing.clone();
                }
            } else {
                replaced.stage2 = other == 2;
            }
        }
        *manifest.stage_mut(number) = Some(stage.manifest);
        write_manifest(fresh.path(), &manifest)?;
        replace_folder(fresh, path)?;
        Ok(replaced)
    }

    /// Writes how the model's label maps are cleaned up into it; the bundle is replaced as a whole.
    pub fn set_postprocessing(&self, postprocessing: Option<Postprocessing>) -> Result<()> {
        if self.manifest.postprocessing == postprocessing {
            return Ok(());
        }
        self.replace_manifest(&Manifest {
            postprocessing,
            ..self.manifest.clone()
        })
    }

    /// The same weights under another manifest; the bundle is replaced as a whole.
    fn replace_manifest(&self, manifest: &Manifest) -> Result<()> {
        let fresh = temporary_folder(parent_of(&self.path))?;
        for name in self.sums.keys().filter(|name| *name != MANIFEST) {
            let (from, to) = (self.path.join(name), fresh.path().join(name));
            // Weights never change under their name: a second name for the same bytes will do.
            if std::fs::hard_link(&from, &to).is_err() {
                regular_file::copy(&from, &to).map_err(Error::io(&from, "copy"))?;
            }
        }
        write_manifest(fresh.path(), manifest)?;
        replace_folder(fresh, &self.path)
    }

    /// Adds to `stage` the folds of this bundle that it does not have, where they were trained like it; else those are
    /// returned.
    fn add_missing_folds(&self, stage: &mut TrainedStage) -> Result<Vec<usize>> {
        let number = stage.manifest.recipe.stage;
        let Some(own) = self.stage(number) else {
            return Ok(Vec::new());
        };
        let trained: BTreeSet<usize> = stage.manifest.folds.iter().map(|fold| fold.fold).collect();
        let missing = own
            .folds
            .iter()
            .filter(|fold| !trained.contains(&fold.fold));
        if !own.trained_like(&stage.manifest) {
            return Ok(missing.map(|fold| fold.fold).collect());
        }
        let tensors = self.tensors(number)?;
        for fold in missing {
            stage.manifest.folds.push(fold.clone());
            stage
                .weights
                .push(below_prefix(&fold_prefix(fold.fold), &tensors));
        }
        // In the order of the folds, whichever was trained first.
        let mut order: Vec<usize> = (0..stage.weights.len()).collect();
        order.sort_by_key(|index| stage.manifest.folds[*index].fold);
        stage.manifest.folds.sort_by_key(|fold| fold.fold);
        stage.weights = order
            .iter()
            .map(|index| std::mem::take(&mut stage.weights[*index]))
            .collect();
        Ok(Vec::new())
    }
}

fn read_manifest(path: &Path) -> Result<Manifest> {
    let text = read_text(path).map_err(Error::io(path, "read"))?;
    let manifest: Manifest = toml::from_str(&text)
        .map_err(|error| Error::file(path, crate::recipe::one_line(&error)))?;
    if manifest.format != FORMAT {
        return Err(Error::file(
            path,
            format!(
                "format {} is not known; this ctseg reads format {FORMAT}: train the stages anew",
                manifest.format
            ),
        ));
    }
    Ok(manifest)
}

/// `model.toml` and, over all that lies in `folder`, the checksums.
fn write_manifest(folder: &Path, manifest: &Manifest) -> Result<()> {
    let text = toml::to_string(manifest)
        .map_err(|error| Error::file(folder, format!("cannot write model.toml: {error}")))?;
    write_bytes_atomically(&folder.join(MANIFEST), text.as_bytes())?;
    write_sums(folder)
}
