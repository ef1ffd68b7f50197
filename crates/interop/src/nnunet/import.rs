//! A model of nnU-Net as a bundle of ctseg's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::checkpoint::Checkpoint;
use super::dataset_json::{self, Labels};
use super::plans::Plans;
use super::source::{DATASET, PLANS, Source, postprocessing, sibling};
use super::stage_recipe::{Wanted, recipe};
use ctseg_base::atomic_file::{parent_of, refuse_file, rename_folder};
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

/// What of a model is taken, and how.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// `0`, `1`, … or `all`; empty: every numbered fold that is there.
    pub folds: Vec<String>,
    /// File name of the checkpoints; none: `checkpoint_final.pth`.
    pub checkpoint: Option<String>,
    /// Which of several models in a folder or zip file.
    pub configuration: Option<String>,
    /// Which way volumes are turned, where it is not what the plans' reader does.
    pub axes: Option<Axes>,
    /// Leave mirroring out where nothing is said at prediction.
    pub unmirrored: bool,
    /// How far apart patches begin, as a share of their sides; none: as nnU-Net, 0.5.
    pub step: Option<f64>,
    /// How images are brought to the network's spacing, where it is not what the plans say.
    pub interpolation: Option<Interpolation>,
    /// Of a cascade the model folder of its first stage; none: the one beside it.
    pub previous: Option<PathBuf>,
}

/// What was imported.
#[derive(Debug, Clone)]
pub struct Imported {
    pub structures: Vec<Structure>,
    /// A cascade's first stage first.
    pub stages: Vec<ImportedStage>,
    /// What of the model is not taken, in words.
    pub notes: Vec<String>,
}

/// One stage of it.
#[derive(Debug, Clone)]
pub struct ImportedStage {
    pub configuration: String,
    pub trainer: String,
    pub folds: Vec<String>,
    pub recipe: Recipe,
    pub parameters: usize,
}

/// Imports the model in `source` (a results folder, a model folder in it, or a zip of them) into the bundle `target`,
/// which must not be there yet. `compute` is where weights are tried.
///
/// # Errors
/// A model that ctseg cannot compute, by the name of what it has not; files that are damaged or want to run code;
/// weights that do not fit the plans.
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
                        "is a cascade whose first stage '{name}' is not beside it; name its model folder with --previous"
                    ),
                )
            })?;
        let options = ImportOptions {
            // Its folds need not be those of the second stage.
            folds: Vec::new(),
            ..options.clone()
        };
        let first = Folder::open(&before, &options)?;
        if first.configuration != *name || first.previous_stage.is_some() {
            return Err(Error::file(
                &before,
                format!(
                    "is a model of '{}'; the cascade's first stage is '{name}'",
                    first.configuration
                ),
            ));
        }
        if first.labels != last.labels {
            return Err(Error::file(
                &before,
                "has other labels than the second stage of the cascade",
            ));
        }
        stages.push(first.stage(1, compute)?);
    }
    stages.push(last.stage(2, compute)?);
    let structures = last.labels.ascending();
    Ok(Imported {
        notes: not_taken(&folder, &opened.folder),
        ..published(target, &structures, stages)?
    })
}

/// What of the model in `folder`, below `source`, has no place in a bundle.
fn not_taken(folder: &Path, source: &Path) -> Vec<String> {
    let note = |file: PathBuf| {
        format!(
            "{} is ignored: a pickle could run code; label maps are those of nnUNetv2_predict, to which \
             nnUNetv2_apply_postprocessing can be applied",
            file.strip_prefix(source).unwrap_or(&file).display()
        )
    };
    postprocessing(folder).map(note).into_iter().collect()
}

/// Weights go nowhere where something is.
fn refuse_existing(target: &Path) -> Result<()> {
    refuse_file(target)?;
    restore(target)?;
    let is_empty = match std::fs::read_dir(target) {
        Ok(mut entries) => entries.next().is_none(),
        Err(_) => !target.exists(),
    };
    match is_empty {
        true => Ok(()),
        false => Err(Error::file(
            target,
            "is there already; choose another folder with -o, or remove it",
        )),
    }
}

/// Writes the bundle, whole or not at all.
fn published(
    target: &Path,
    structures: &[Structure],
    stages: Vec<(ImportedStage, TrainedStage)>,
) -> Result<Imported> {
    let fresh = temporary_folder(parent_of(target))?;
    let bundle = fresh.path().join("model");
    let mut told = Vec::new();
    for (stage, mut trained) in stages {
        if trained.manifest.recipe.stage == 2 && !told.is_empty() {
            let first = Bundle::open(&bundle)?;
            trained.manifest.stage1_sha256 = first.stage_sha256(1).map(str::to_owned);
        }
        Bundle::publish(&bundle, structures, trained)?;
        told.push(stage);
    }
    rename_folder(&bundle, target)?;
    Ok(Imported {
        structures: structures.to_vec(),
        stages: told,
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
        // What the first fold says counts, as in nnU-Net.
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
            try_out(recipe, structures.len(), &tensors, compute)
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
            channel: None, // its normalisation tells CT from other images
            folds,
            image_sha256: BTreeMap::new(),
            recipe: recipe.clone(),
        };
        let told = ImportedStage {
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
        Ok((told, TrainedStage { manifest, weights }))
    }

    fn check_configuration(&self, checkpoint: &Checkpoint, file: &Path) -> Result<()> {
        let found = checkpoint.configuration()?;
        if found == self.configuration {
            return Ok(());
        }
        Err(Error::file(
            file,
            format!(
                "is of configuration '{found}', the first fold of '{}'",
                self.configuration
            ),
        ))
    }

    /// What the plans and the (first) checkpoint say of a stage.
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
        let decoder_levels = recipe.network.config().widths.len() - 1;
        let rows = self.labels.rows();
        let background = (!self.labels.regions).then_some(0);
        let held = checkpoint.weights()?;
        super::keys::converted(held, decoder_levels, &rows, background)
            .map_err(|problem| Error::file(file, format!("weights that are not known: {problem}")))
    }
}

/// Whether weights fit the network that the plans describe.
fn try_out(
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

/// The checkpoints of the wanted folds, in order.
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
                "has no fold with {file}; name another file with --checkpoint, such as checkpoint_best.pth"
            ),
        ));
    }
    let mut numbers: Vec<usize> = names.iter().map(|name| fold_number(name)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    if numbers.len() < names.len() {
        return Err(Error::usage(format!(
            "--fold {}: names a fold twice, or all beside 0; expected each once",
            names.join(",")
        )));
    }
    let found = names.into_iter().map(|name| {
        let checkpoint = path.join(format!("fold_{name}")).join(file);
        match checkpoint.is_file() {
            true => Ok((name, checkpoint)),
            false => Err(Error::file(
                &checkpoint,
                "is not there; leave --fold out for every fold that is",
            )),
        }
    });
    found.collect()
}

/// The network of all cases is kept as that of fold 0.
fn fold_number(name: &str) -> usize {
    name.parse().unwrap_or(0)
}

/// The numbered folds, or else the one of all cases.
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
