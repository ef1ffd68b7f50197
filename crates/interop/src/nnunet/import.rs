//! Imports an nnU-Net model as a ctseg bundle.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::checkpoint::Checkpoint;
use super::dataset_json::{self, Labels};
use super::network::unet_of;
use super::plans::Plans;
use super::source::{DATASET, PLANS, Source, postprocessing, sibling};
use super::stage_recipe::{Wanted, recipe};
use ctseg_base::atomic_file::{ensure_not_file, parent_of, rename_folder};
use ctseg_base::hash::file_sha256;
use ctseg_base::replace_folder::restore;
use ctseg_base::temp_files::temporary_folder;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::Structure;
use ctseg_core::model::bundle::{Bundle, TrainedStage};
use ctseg_core::model::check::size_problem;
use ctseg_core::model::manifest::{FoldManifest, StageManifest};
use ctseg_core::recipe::{Axes, Recipe};
use ctseg_engine::device::Compute;
use ctseg_engine::weights::{NamedTensors, with_tensors};
use ctseg_image::resample::Interpolation;

#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// `0`, `1`, … or `all`. Default: every numbered fold.
    pub folds: Vec<String>,
    /// File name of the checkpoints. Default: `checkpoint_final.pth`.
    pub checkpoint: Option<String>,
    /// Selects one of several models in a folder or zip file.
    pub configuration: Option<String>,
    /// Orientation of volumes. Default: that of the plans' reader.
    pub axes: Option<Axes>,
    /// Disable test-time augmentation by default.
    pub unmirrored: bool,
    /// Step between patches as a fraction of the patch size. Default: 0.5, as in nnU-Net.
    pub step: Option<f64>,
    /// Interpolation of images to the network's spacing. Default: that of the plans.
    pub interpolation: Option<Interpolation>,
    /// Model folder of a cascade's first stage. Default: the one beside the second stage.
    pub previous: Option<PathBuf>,
}

/// Result of an import.
#[derive(Debug, Clone)]
pub struct Imported {
    pub structures: Vec<Structure>,
    /// In order; a cascade's first stage comes first.
    pub stages: Vec<ImportedStage>,
    /// Parts of the model that were not imported.
    pub notes: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct ImportedStage {
    pub configuration: String,
    pub trainer: String,
    pub folds: Vec<String>,
    pub recipe: Recipe,
    pub parameters: usize,
}

/// Imports the model in `source` (a results folder, a model folder in it, or a zip of them) into the bundle `target`,
/// which must not exist. The weights are checked on the device of `compute`.
///
/// # Errors
/// A model with an unsupported feature, by name; files that are damaged or would run code; weights that do not match
/// the plans.
pub fn import_model(
    source: &Path,
    target: &Path,
    options: &ImportOptions,
    compute: &Compute,
) -> Result<Imported> {
    refuse_existing(target)?;
    let opened = Source::open(source, target)?;
    let folder = opened.model(options.configuration.as_deref())?;
    let last = Folder::open(&folder, options)?;
    let mut stages = Vec::new();
    if let Some(name) = &last.previous_stage {
        let before = options
            .previous
            .clone()
            .or_else(|| sibling(&folder, name))
            .ok_or_else(|| {
                Error::file(
                    &folder,
                    format!(
                        "is a cascade, but its first stage '{name}' is not in the same folder; give its model folder with --previous"
                    ),
                )
            })?;
        let options = ImportOptions {
            // The first stage may have other folds.
            folds: Vec::new(),
            ..options.clone()
        };
        let first = Folder::open(&before, &options)?;
        if first.configuration != *name || first.previous_stage.is_some() {
            return Err(Error::file(
                &before,
                format!(
                    "is a model of configuration '{}'; expected the cascade's first stage '{name}'",
                    first.configuration
                ),
            ));
        }
        if first.labels != last.labels {
            return Err(Error::file(
                &before,
                "its labels differ from those of the cascade's second stage",
            ));
        }
        stages.push(first.stage(1, compute)?);
    }
    stages.push(last.stage(2, compute)?);
    let structures = last.labels.ascending();
    Ok(Imported {
        notes: not_imported(&folder, &opened.folder),
        ..publish(target, &structures, stages)?
    })
}

/// Notes on parts of the model in `folder`, below `source`, that have no place in a bundle.
fn not_imported(folder: &Path, source: &Path) -> Vec<String> {
    let note = |file: PathBuf| {
        format!(
            "{} is ignored, because a pickle can run code; label maps equal those of nnUNetv2_predict before \
             nnUNetv2_apply_postprocessing",
            file.strip_prefix(source).unwrap_or(&file).display()
        )
    };
    postprocessing(folder).map(note).into_iter().collect()
}

/// Refuses a target that exists and is not empty.
fn refuse_existing(target: &Path) -> Result<()> {
    ensure_not_file(target)?;
    restore(target)?;
    let is_empty = match std::fs::read_dir(target) {
        Ok(mut entries) => entries.next().is_none(),
        Err(_) => !target.exists(),
    };
    match is_empty {
        true => Ok(()),
        false => Err(Error::file(
            target,
            "already exists; choose another folder with -o, or remove it",
        )),
    }
}

/// Writes the bundle atomically.
fn publish(
    target: &Path,
    structures: &[Structure],
    stages: Vec<(ImportedStage, TrainedStage)>,
) -> Result<Imported> {
    let fresh = temporary_folder(parent_of(target))?;
    let bundle = fresh.path().join("model");
    let mut imported = Vec::new();
    for (stage, mut trained) in stages {
        if trained.manifest.recipe.stage == 2 && !imported.is_empty() {
            let first = Bundle::open(&bundle)?;
            trained.manifest.stage1_sha256 = first.stage_sha256(1).map(str::to_owned);
        }
        Bundle::publish(&bundle, structures, trained)?;
        imported.push(stage);
    }
    rename_folder(&bundle, target)?;
    Ok(Imported {
        structures: structures.to_vec(),
        stages: imported,
        notes: Vec::new(),
    })
}

/// A model folder whose plans have been read.
pub(super) struct Folder {
    path: PathBuf,
    plans: Plans,
    labels: Labels,
    previous_stage: Option<String>,
    configuration: String,
    /// Name and file of each fold.
    pub(super) checkpoints: Vec<(String, PathBuf)>,
    options: ImportOptions,
}

impl Folder {
    pub(super) fn open(path: &Path, options: &ImportOptions) -> Result<Self> {
        let plans_path = path.join(PLANS);
        let plans = Plans::read(&plans_path)?;
        let labels = dataset_json::labels(&path.join(DATASET))?;
        let checkpoints = checkpoints(path, options)?;
        // The first fold decides, as in nnU-Net.
        let first = checkpoints.first().map(|(_, file)| Checkpoint::open(file));
        let first = first
            .transpose()?
            .ok_or_else(|| Error::file(path, "has no folds"))?;
        let configuration = first.configuration()?;
        let described = plans.configuration(&plans_path, &configuration)?;
        Ok(Self {
            path: path.to_path_buf(),
            previous_stage: described.previous_stage.clone(),
            plans,
            labels,
            configuration,
            checkpoints,
            options: options.clone(),
        })
    }

    /// One stage of the bundle.
    fn stage(&self, stage: u8, compute: &Compute) -> Result<(ImportedStage, TrainedStage)> {
        let plans_path = self.path.join(PLANS);
        let structures = self.labels.ascending();
        let mut described: Option<(Recipe, String)> = None;
        let (mut folds, mut weights) = (Vec::new(), Vec::new());
        for (name, file) in &self.checkpoints {
            let mut checkpoint = Checkpoint::open(file)?;
            self.check_configuration(&checkpoint, file)?;
            let (recipe, _) = match &mut described {
                Some(described) => described,
                none => none.insert((self.recipe(stage, &checkpoint)?, checkpoint.trainer())),
            };
            let tensors = self.weights(&mut checkpoint, file, recipe)?;
            check_weights(recipe, structures.len(), &tensors, compute)
                .map_err(|error| Error::file(file, error.to_string()))?;
            folds.push(FoldManifest {
                fold: fold_number(name),
                epoch: checkpoint.epoch(),
                validation_dice: checkpoint.validation_dice(),
                held_out: Vec::new(),
                trained_on: Vec::new(),
                input_ranges: None,
            });
            weights.push(tensors);
        }
        let (recipe, trainer) = described.ok_or_else(|| Error::file(&self.path, "has no folds"))?;
        let parameters = weights.first().map_or(0, |tensors: &NamedTensors| {
            tensors.values().map(|tensor| tensor.values.len()).sum()
        });
        let manifest = StageManifest {
            dataset: self.plans.dataset_name.clone(),
            data_fingerprint: file_sha256(&plans_path)?,
            seed: 0,
            engine: format!("nnU-Net 2 ({trainer}, {})", self.plans.plans_name),
            stage1_sha256: None,
            channel: None, // the normalisation shows whether the images are CT
            folds,
            image_sha256: BTreeMap::new(),
            recipe: recipe.clone(),
        };
        let imported = ImportedStage {
            configuration: self.configuration.clone(),
            trainer,
            folds: self
                .checkpoints
                .iter()
                .map(|(name, _)| name.clone())
                .collect(),
            recipe,
            parameters,
        };
        Ok((imported, TrainedStage { manifest, weights }))
    }

    fn check_configuration(&self, checkpoint: &Checkpoint, file: &Path) -> Result<()> {
        let found = checkpoint.configuration()?;
        if found == self.configuration {
            return Ok(());
        }
        Err(Error::file(
            file,
            format!(
                "has configuration '{found}', but the first fold has '{}'",
                self.configuration
            ),
        ))
    }

    /// The recipe of a stage from the plans and the (first) checkpoint.
    pub(super) fn recipe(&self, stage: u8, checkpoint: &Checkpoint) -> Result<Recipe> {
        let wanted = Wanted {
            stage,
            configuration: &self.configuration,
            labels: &self.labels,
            axes: self.options.axes,
            mirror_axes: match self.options.unmirrored {
                true => Vec::new(),
                false => checkpoint.mirror_axes(),
            },
            folds: self.checkpoints.len(),
        };
        let mut recipe = recipe(&self.plans, &self.path.join(PLANS), &wanted)?;
        recipe.sliding.step = self.options.step.unwrap_or(recipe.sliding.step);
        recipe.interpolation = self.options.interpolation.unwrap_or(recipe.interpolation);
        Ok(recipe)
    }

    pub(super) fn weights(
        &self,
        checkpoint: &mut Checkpoint,
        file: &Path,
        recipe: &Recipe,
    ) -> Result<NamedTensors> {
        let decoder_levels = unet_of(recipe)?.widths.len() - 1;
        let rows = self.labels.rows();
        let background = (!self.labels.regions).then_some(0);
        let held = checkpoint.weights()?;
        super::keys::convert_weights(held, decoder_levels, &rows, background)
            .map_err(|problem| Error::file(file, format!("unsupported weights: {problem}")))
    }
}

/// Checks that the weights fit the network that the plans describe.
fn check_weights(
    recipe: &Recipe,
    structures: usize,
    tensors: &NamedTensors,
    compute: &Compute,
) -> Result<()> {
    let numbers: u64 = tensors
        .values()
        .map(|tensor| tensor.values.len() as u64)
        .sum();
    if let Some(problem) = size_problem(recipe, structures, numbers)? {
        return Err(Error::invalid(problem));
    }
    let device = &compute.device;
    let network = recipe.network.init(recipe.channels(), structures, device)?;
    with_tensors(network, tensors, device).map(drop)
}

/// The checkpoints of the requested folds, in order.
fn checkpoints(path: &Path, options: &ImportOptions) -> Result<Vec<(String, PathBuf)>> {
    let file = options
        .checkpoint
        .as_deref()
        .unwrap_or("checkpoint_final.pth");
    let names = match options.folds.is_empty() {
        false => options.folds.clone(),
        true => found_folds(path, file),
    };
    if names.is_empty() {
        return Err(Error::file(
            path,
            format!(
                "has no fold with {file}; choose another file with --checkpoint, such as checkpoint_best.pth"
            ),
        ));
    }
    let mut numbers: Vec<usize> = names.iter().map(|name| fold_number(name)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    if numbers.len() < names.len() {
        return Err(Error::usage(format!(
            "--fold {}: names a fold twice, or both 'all' and 0; expected each fold once",
            names.join(",")
        )));
    }
    let found = names.into_iter().map(|name| {
        let checkpoint = path.join(format!("fold_{name}")).join(file);
        match checkpoint.is_file() {
            true => Ok((name, checkpoint)),
            false => Err(Error::file(
                &checkpoint,
                "does not exist; omit --fold to import every fold found",
            )),
        }
    });
    found.collect()
}

/// The network trained on all cases is stored as fold 0.
fn fold_number(name: &str) -> usize {
    name.parse().unwrap_or(0)
}

/// The numbered folds, otherwise `fold_all`.
fn found_folds(path: &Path, file: &str) -> Vec<String> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.path().join(file).is_file());
    let names = folders.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        name.strip_prefix("fold_")?.parse::<usize>().ok()
    });
    let mut numbers: Vec<usize> = names.collect();
    numbers.sort_unstable();
    match numbers.is_empty() && path.join("fold_all").join(file).is_file() {
        true => vec!["all".to_owned()],
        false => numbers.iter().map(usize::to_string).collect(),
    }
}
