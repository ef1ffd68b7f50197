//! Exports a bundle as a results folder that nnU-Net 2 can predict with.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::export_plans::{Exported, plans};
use super::export_weights::state_dict;
use ctseg_base::atomic_file::{ensure_not_file, parent_of, rename_folder, write_bytes_atomically};
use ctseg_base::temp_files::temporary_folder;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::Structure;
use ctseg_core::dataset::laterality::counterparts;
use ctseg_core::model::bundle::Bundle;
use ctseg_core::model::manifest::StageManifest;
use ctseg_core::recipe::Recipe;
use ctseg_engine::torch_checkpoint::{Pickled, write_torch};
use ctseg_engine::weights::NamedTensors;

/// The index of x among z, y, x.
const X: usize = 2;

/// Dataset number and name, as nnU-Net writes them.
#[derive(Debug, Clone)]
pub struct DatasetName(pub String);

impl DatasetName {
    /// `Dataset123_Name`.
    ///
    /// # Errors
    /// A number above 999, or a name that nnU-Net would not find.
    pub fn new(id: u16, name: &str) -> Result<Self> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if id > 999 || name.is_empty() || !name.chars().all(plain) {
            return Err(Error::usage(format!(
                "Dataset{id:03}_{name} is not a valid nnU-Net dataset name; expected --id from 0 to 999 and a --name of letters, digits, - and _"
            )));
        }
        Ok(Self(format!("Dataset{id:03}_{name}")))
    }
}

/// Writes `<results>/<dataset>/nnUNetTrainer__nnUNetPlans__<configuration>` for each stage that prediction needs.
/// Returns those folders, a cascade's first stage first.
///
/// # Errors
/// A model without an nnU-Net equivalent, by unsupported feature; an existing dataset of that name in `results`.
pub fn export_model(model: &Path, results: &Path, dataset: &DatasetName) -> Result<Vec<PathBuf>> {
    let bundle = Bundle::open(model)?;
    let structures = bundle.structures()?;
    ensure_not_file(results)?;
    let target = results.join(&dataset.0);
    if target.exists() {
        return Err(Error::file(
            &target,
            "already exists; choose another --id or --name, or remove it",
        ));
    }
    let last = bundle.stage(2).ok_or_else(|| {
        Error::file(
            model,
            "has no stage 2, which an nnU-Net model needs; train it with 'ctseg fit --stage 2'",
        )
    })?;
    let is_cascade = last
        .recipe
        .nnunet
        .as_ref()
        .is_some_and(|nnunet| !nnunet.previous_labels.is_empty());
    let first = bundle.stage(1).filter(|_| is_cascade);
    let exported = plans(model, &dataset.0, first, last, &structures)?;
    let fresh = temporary_folder(parent_of(&target))?;
    let made = fresh.path().join(&dataset.0);
    let mut folders = Vec::new();
    let stages = [(1, first), (2, Some(last))];
    for (number, stage) in stages {
        let Some(stage) = stage else { continue };
        let configuration = exported.configuration(number);
        let name = format!("nnUNetTrainer__nnUNetPlans__{configuration}");
        let weights = bundle.stage_weights(number)?;
        write_model(
            &made.join(&name),
            &exported,
            stage,
            &weights,
            configuration,
            &structures,
        )?;
        folders.push(target.join(name));
    }
    rename_folder(&made, &target)?;
    Ok(folders)
}

fn write_model(
    folder: &Path,
    exported: &Exported,
    stage: &StageManifest,
    weights: &[NamedTensors],
    configuration: &str,
    structures: &[Structure],
) -> Result<()> {
    let text = |value: &Value| format!("{value:#}\n").into_bytes();
    write_bytes_atomically(&folder.join("plans.json"), &text(&exported.plans))?;
    write_bytes_atomically(&folder.join("dataset.json"), &text(&exported.dataset))?;
    // nnU-Net copies this file but does not need it for prediction.
    let fingerprint = json!({"ctseg": "not measured"});
    write_bytes_atomically(
        &folder.join("dataset_fingerprint.json"),
        &text(&fingerprint),
    )?;
    for (fold, weights) in stage.folds.iter().zip(weights) {
        let folder = folder.join(format!("fold_{}", fold.fold));
        let named = state_dict(&stage.recipe, weights, &exported.rows(structures))?;
        let entry = |name: &str, value| (name.to_owned(), value);
        let weights = named
            .entries
            .iter()
            .map(|(name, place)| (name.clone(), Pickled::Tensor(&named.tensors[*place])));
        let arguments = json!({
            "plans": exported.plans,
            "configuration": configuration,
            "fold": fold.fold,
            "dataset_json": exported.dataset,
        });
        let checkpoint = Pickled::Dict(vec![
            entry("network_weights", Pickled::Dict(weights.collect())),
            entry("optimizer_state", Pickled::Dict(Vec::new())),
            entry("grad_scaler_state", Pickled::None),
            entry("logging", Pickled::Dict(Vec::new())),
            entry(
                "_best_ema",
                fold.validation_dice.map_or(Pickled::None, Pickled::Float),
            ),
            entry("current_epoch", Pickled::Int(fold.epoch as i64)),
            entry("init_args", Pickled::from(&arguments)),
            entry("trainer_name", Pickled::Text("nnUNetTrainer".to_owned())),
            entry(
                "inference_allowed_mirroring_axes",
                mirror_axes(&stage.recipe, structures)?,
            ),
        ]);
        write_torch(&folder.join("checkpoint_final.pth"), &checkpoint)?;
    }
    Ok(())
}

/// The network axes for mirroring at prediction: those mirrored during training, or none. nnU-Net does not swap left
/// and right labels, so x is excluded if mirroring would change the side of a structure.
fn mirror_axes(recipe: &Recipe, structures: &[Structure]) -> Result<Pickled<'static>> {
    let axes = match &recipe.nnunet {
        Some(nnunet) => nnunet.mirror_axes.clone(),
        None => trained_axes(recipe, structures)?,
    };
    if axes.is_empty() {
        return Ok(Pickled::None);
    }
    let skipped = 3 - recipe.network.dimensions();
    let axes = axes
        .iter()
        .map(|axis| Pickled::Int((axis - skipped) as i64));
    Ok(Pickled::Tuple(axes.collect()))
}

/// The axes among z, y, x along which a ctseg model was mirrored in training.
fn trained_axes(recipe: &Recipe, structures: &[Structure]) -> Result<Vec<usize>> {
    let mut axes = recipe.training.mirrored_axes();
    if axes.contains(&X) {
        let augmentation = recipe.training.augmentation();
        let named = augmentation.map_or(&[][..], |augmentation| &augmentation.mirror_pairs);
        let pairs = counterparts(structures, named)?;
        if pairs.iter().any(|(one, other)| one != other) {
            axes.retain(|axis| *axis != X);
        }
    }
    Ok(axes)
}
