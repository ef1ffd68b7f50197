//! Exports a model's weights as plain safetensors files, with the metadata that other programs need to use them.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use ctseg_base::{Error, Result};
use ctseg_core::dataset::Structure;
use ctseg_core::model::bundle::Bundle;
use ctseg_core::model::manifest::{FoldManifest, StageManifest};
use ctseg_core::recipe::Recipe;
use ctseg_core::recipe::output_maps::{UNION, output_maps};
use ctseg_engine::weights::{NamedTensors, prefixed, write_tensors};

/// Version of the metadata's layout.
const FORMAT: u32 = 1;

/// A written file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightsFile {
    pub path: PathBuf,
    pub networks: usize,
    pub tensors: usize,
    /// Number of values in all tensors.
    pub values: usize,
}

/// A network of the model.
struct Network<'a> {
    stage: &'a StageManifest,
    fold: &'a FoldManifest,
    weights: NamedTensors,
}

/// Writes the weights of a model, or of one of its stages. Into a folder: one file per network, such as
/// `stage2_fold0.safetensors`. Into a file, if `output` ends in `.safetensors`: with name prefixes (`stage2.fold_0.`).
///
/// The metadata's only key, `ctseg`, holds JSON as described in `docs/export.md`.
///
/// # Errors
/// A model without the stage, a damaged model, or existing files without `overwrite`.
pub fn export_weights(
    model: &Path,
    stage: Option<u8>,
    output: &Path,
    overwrite: bool,
) -> Result<Vec<WeightsFile>> {
    let bundle = Bundle::open(model)?;
    let networks = networks(&bundle, stage)?;
    let in_one = output
        .extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("safetensors"));
    let mut parts: Vec<(PathBuf, Vec<(String, Network)>)> = Vec::new();
    for network in networks {
        let (stage, fold) = (network.stage.recipe.stage, network.fold.fold);
        let (path, prefix) = match in_one {
            true => (output.to_path_buf(), format!("stage{stage}.fold_{fold}.")),
            false => (
                output.join(format!("stage{stage}_fold{fold}.safetensors")),
                String::new(),
            ),
        };
        match parts.last_mut().filter(|(last, _)| *last == path) {
            Some((_, networks)) => networks.push((prefix, network)),
            None => parts.push((path, vec![(prefix, network)])),
        }
    }
    if let Some((path, _)) = parts.iter().find(|(path, _)| path.exists() && !overwrite) {
        return Err(Error::file(
            path,
            "already exists; choose another -o, or replace it with --overwrite",
        ));
    }
    let write =
        |(path, networks): (PathBuf, Vec<(String, Network)>)| written(&bundle, path, networks);
    parts.into_iter().map(write).collect()
}

/// The networks of the requested stages, in order.
fn networks(bundle: &Bundle, stage: Option<u8>) -> Result<Vec<Network<'_>>> {
    let mut networks = Vec::new();
    for number in [1, 2] {
        let requested = stage.is_none_or(|stage| stage == number);
        let manifest = bundle.stage(number).filter(|_| requested);
        let Some(manifest) = manifest else { continue };
        for (fold, weights) in manifest.folds.iter().zip(bundle.stage_weights(number)?) {
            networks.push(Network {
                stage: manifest,
                fold,
                weights,
            });
        }
    }
    if networks.is_empty() {
        let what = stage.map_or("networks".to_owned(), |stage| format!("stage {stage}"));
        return Err(Error::file(
            &bundle.path,
            format!("the model has no {what}"),
        ));
    }
    Ok(networks)
}

fn written(
    bundle: &Bundle,
    path: PathBuf,
    networks: Vec<(String, Network)>,
) -> Result<WeightsFile> {
    let structures = bundle.structures()?;
    let described = networks
        .iter()
        .map(|(prefix, network)| described(prefix, network, &structures))
        .collect::<Result<Vec<Value>>>()?;
    let metadata = json!({
        "format": FORMAT,
        "ctseg_version": bundle.manifest.ctseg_version,
        "model_sha256": bundle.sha256(),
        "structures": structures.iter().map(|s| (s.name.clone(), s.value)).collect::<std::collections::BTreeMap<_, _>>(),
        "networks": described,
    });
    let count = networks.len();
    let mut tensors = NamedTensors::new();
    for (prefix, network) in networks {
        tensors.extend(prefixed(&prefix, network.weights));
    }
    write_tensors(&path, &tensors, &metadata.to_string())?;
    Ok(WeightsFile {
        path,
        networks: count,
        tensors: tensors.len(),
        values: tensors.values().map(|tensor| tensor.values.len()).sum(),
    })
}

/// Metadata of a network.
fn described(prefix: &str, network: &Network, structures: &[Structure]) -> Result<Value> {
    let recipe = &network.stage.recipe;
    let json = |value: serde_json::Result<Value>| {
        value.map_err(|error| Error::invalid(format!("cannot describe a network: {error}")))
    };
    Ok(json!({
        "prefix": prefix,
        "stage": recipe.stage,
        "fold": network.fold.fold,
        "epoch": network.fold.epoch,
        "validation_dice": network.fold.validation_dice,
        "dataset": network.stage.dataset,
        "network": json(serde_json::to_value(recipe.network.written_out()?))?,
        "channels": channels(recipe),
        "normalisation": json(serde_json::to_value(recipe.normalisation))?,
        "outputs": recipe.outputs.name(),
        "maps": maps(recipe, structures),
        "spacing_mm": recipe.spacing_mm,
        "patch_size": recipe.training.patch_size.sides(),
        "recipe": json(serde_json::to_value(recipe))?,
    }))
}

/// Description of each input channel.
fn channels(recipe: &Recipe) -> Vec<Value> {
    let windows = recipe.windows_hu.iter();
    let windows = windows.map(|window| json!({"window_hu": [window.low_hu, window.high_hu]}));
    let prior = recipe.prior.then(|| json!("prior"));
    windows.chain(prior).collect()
}

/// Name of each output map: a structure, or the union of all.
fn maps(recipe: &Recipe, structures: &[Structure]) -> Vec<String> {
    let values: Vec<u16> = structures.iter().map(|structure| structure.value).collect();
    let name = |map: Vec<u16>| {
        let named = structures.iter().find(|structure| map == [structure.value]);
        named.map_or_else(|| UNION.to_owned(), |structure| structure.name.clone())
    };
    output_maps(recipe, &values).into_iter().map(name).collect()
}
