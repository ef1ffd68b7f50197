//! A trained model on disk: recipes, labels, weights and their checksums in one folder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::check::check;
use super::folder::{SUMS, read_sums, verified_sums, write_sums};
use super::manifest::{MANIFEST, Manifest, StageManifest, fold_prefix, weights_file};
use super::multi_part_manifest as multi_part;
use super::postprocessing::Postprocessing;
use crate::dataset::Structure;
use crate::recipe::Region;
use ctseg_base::atomic_file::{ensure_not_file, parent_of, write_bytes_atomically};
use ctseg_base::hash::file_sha256;
use ctseg_base::replace_folder::{read_consistent, replace_folder, restore};
use ctseg_base::temp_files::temporary_folder;
use ctseg_base::text::file::read_text;
use ctseg_base::{Error, Result, regular_file};
use ctseg_engine::quantisation::InputRanges;
use ctseg_engine::weights::{NamedTensors, below_prefix, prefixed, read_tensors, write_tensors};

const FORMAT: u32 = 2;

/// A trained stage, ready to be added to a bundle.
pub struct TrainedStage {
    pub manifest: StageManifest,
    /// One set of weights per fold, in the manifest's order.
    pub weights: Vec<NamedTensors>,
}

/// What was removed from a bundle when a stage was added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replaced {
    /// Whether stage 2 was removed because it was trained with another stage 1.
    pub stage2: bool,
    /// Removed folds of the stage: trained with another recipe, data or seed, and not trained again.
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
    /// Opens a bundle and verifies every checksum; nothing in it is executed. A bundle that a killed process moved
    /// aside is restored first.
    ///
    /// # Errors
    /// A file is missing, changed, or has another format; the recipe is invalid, or its network is larger than the
    /// weights.
    pub fn open(path: &Path) -> Result<Self> {
        read_consistent(path, || Self::opened(path))
    }

    fn opened(path: &Path) -> Result<Self> {
        let manifest_path = path.join(MANIFEST);
        if path.join(multi_part::MANIFEST).is_file() {
            return Err(Error::file(
                path,
                "is a multi-part model; expected one part's folder, which is inside it",
            ));
        }
        if !manifest_path.is_file() {
            return Err(Error::file(
                path,
                "is not a model (model.toml is missing); train one with 'ctseg fit --stage 1', or pass a model's folder with --model",
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

    /// The hash of the whole model.
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

    /// Saves the input ranges of the convolutions of each network of stage 1 and stage 2; a stage without any is
    /// unchanged.
    pub fn save_input_ranges(&self, ranges: &[Vec<InputRanges>; 2]) -> Result<()> {
        let mut manifest = self.manifest.clone();
        for (stage, ranges) in [1, 2].into_iter().zip(ranges) {
            let folds = manifest.stage_mut(stage).iter_mut();
            for (fold, ranges) in folds.flat_map(|stage| &mut stage.folds).zip(ranges) {
                fold.input_ranges = Some(ranges.clone());
            }
        }
        self.replace_manifest(&manifest)
    }

    /// The weights of a stage's networks, one set per fold, in the manifest's order.
    ///
    /// # Errors
    /// The bundle has no such stage, or its file cannot be read.
    pub fn stage_weights(&self, stage: u8) -> Result<Vec<NamedTensors>> {
        let folds = &self.require_stage(stage)?.folds;
        let tensors = self.tensors(stage)?;
        let of_fold = |fold: usize| below_prefix(&fold_prefix(fold), &tensors);
        Ok(folds.iter().map(|fold| of_fold(fold.fold)).collect())
    }

    /// All tensors of a stage's file.
    ///
    /// # Errors
    /// It cannot be read, or the model has been replaced since it was opened.
    fn tensors(&self, stage: u8) -> Result<NamedTensors> {
        let name = weights_file(stage);
        read_consistent(&self.path, || {
            let (tensors, _) = read_tensors(&self.path.join(&name))?;
            // Checked after reading the weights: a folder is replaced as a whole.
            match read_sums(&self.path)?.get(&name) == self.sums.get(&name) {
                true => Ok(tensors),
                false => Err(Error::file(
                    &self.path,
                    "has been replaced by another model since it was opened; run the command again",
                )),
            }
        })
    }

    /// A stage that is required.
    ///
    /// # Errors
    /// The model does not have it.
    pub fn require_stage(&self, stage: u8) -> Result<&StageManifest> {
        self.stage(stage).ok_or_else(|| {
            Error::file(
                &self.path,
                format!("the model has no stage {stage} yet; run 'ctseg fit --stage {stage}'"),
            )
        })
    }

    /// Checks that a stage for `structures` can be published at `path`; call it before training.
    ///
    /// # Errors
    /// The folder contains something other than a model; the model is damaged; stage 1 of the model was trained for
    /// other structures than this stage 2; the parent folder is not writable.
    pub fn check_target(path: &Path, stage: u8, structures: &[Structure]) -> Result<()> {
        drop(temporary_folder(parent_of(path))?);
        let Some(old) = Self::open_if_there(path)? else {
            return Ok(());
        };
        if stage == 2 && old.manifest.stage1.is_some() && old.structures()? != structures {
            return Err(Error::file(
                path,
                "the model's stage 1 was trained for other structures than those of this dataset; choose another --model, or train stage 1 on this dataset first",
            ));
        }
        Ok(())
    }

    /// The model at `path`; `None` if it does not exist or is an empty folder.
    fn open_if_there(path: &Path) -> Result<Option<Self>> {
        restore(path)?;
        if !path.exists() {
            return Ok(None);
        }
        ensure_not_file(path)?;
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
                    "contains '{other}', which does not belong to a model and would be deleted; choose a separate folder for --model"
                ),
            ));
        }
        if names.is_empty() {
            Ok(None)
        } else {
            Self::open(path).map(Some)
        }
    }

    /// Adds a trained stage to the bundle at `path`, creating the bundle if there is none. Existing folds with the same
    /// recipe, data and seed are kept. If stage 1 changes, the stage 2 that was trained with the old one is removed.
    /// The bundle is replaced atomically: a killed process leaves either the old or the new one.
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
            // The same weights, regardless of the dataset's name.
            let same_stage1 = || {
                let own = old.stage(1);
                kept.stage1_sha256.as_ref() == Some(&new_sum)
                    && own.is_some_and(|own| own.has_same_recipe(&stage.manifest))
            };
            let still_valid = number == 2 || kept.recipe.region == Region::Whole || same_stage1();
            if still_valid && old.manifest.structures == manifest.structures {
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

    /// Sets the model's post-processing; the bundle is replaced atomically.
    pub fn set_postprocessing(&self, postprocessing: Option<Postprocessing>) -> Result<()> {
        if self.manifest.postprocessing == postprocessing {
            return Ok(());
        }
        self.replace_manifest(&Manifest {
            postprocessing,
            ..self.manifest.clone()
        })
    }

    /// Replaces the manifest and keeps the weights; the bundle is replaced atomically.
    fn replace_manifest(&self, manifest: &Manifest) -> Result<()> {
        let fresh = temporary_folder(parent_of(&self.path))?;
        for name in self.sums.keys().filter(|name| *name != MANIFEST) {
            let (from, to) = (self.path.join(name), fresh.path().join(name));
            // Weights never change in place, so a hard link is enough.
            if std::fs::hard_link(&from, &to).is_err() {
                regular_file::copy(&from, &to).map_err(Error::io(&from, "copy"))?;
            }
        }
        write_manifest(fresh.path(), manifest)?;
        replace_folder(fresh, &self.path)
    }

    /// Adds this bundle's other folds to `stage` if they were trained with the same settings; otherwise returns their
    /// numbers.
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
        if !own.is_same_training(&stage.manifest) {
            return Ok(missing.map(|fold| fold.fold).collect());
        }
        let tensors = self.tensors(number)?;
        for fold in missing {
            stage.manifest.folds.push(fold.clone());
            stage
                .weights
                .push(below_prefix(&fold_prefix(fold.fold), &tensors));
        }
        // Sort by fold.
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
                "unknown format {}; this version of ctseg reads format {FORMAT}: train the stages again",
                manifest.format
            ),
        ));
    }
    Ok(manifest)
}

/// Writes `model.toml`, and the checksums of all files in `folder`.
fn write_manifest(folder: &Path, manifest: &Manifest) -> Result<()> {
    let text = toml::to_string(manifest)
        .map_err(|error| Error::file(folder, format!("cannot write model.toml: {error}")))?;
    write_bytes_atomically(&folder.join(MANIFEST), text.as_bytes())?;
    write_sums(folder)
}
