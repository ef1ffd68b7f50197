//! Validation of a model before anything is allocated by its values: it may come from an untrusted source.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::manifest::{MANIFEST, Manifest, StageManifest, fold_prefix, weights_file};
use crate::recipe::Recipe;
use crate::recipe::output_maps::output_maps;
use ctseg_base::{Error, Result};
use ctseg_engine::weights::{elements_of, read_shapes};

/// Refuses invalid recipes and networks that are larger than their weights. `structures` are the label values,
/// ascending.
///
/// # Errors
/// The first problem, with the name of the file.
pub(super) fn check(folder: &Path, manifest: &Manifest, structures: &[u16]) -> Result<()> {
    if let Some(problem) = problem(manifest) {
        return Err(Error::file(
            folder.join(MANIFEST),
            format!("{problem}; the model cannot be used: copy, import or train it again"),
        ));
    }
    let mut labels = structures.windows(2);
    if structures.first().is_none_or(|label| *label == 0) || labels.any(|pair| pair[0] == pair[1]) {
        return Err(Error::file(
            folder.join(MANIFEST),
            "structures: expected at least one, each with a distinct label value of at least 1; the model cannot be used",
        ));
    }
    for (number, stage) in stages(manifest) {
        check_size(&folder.join(weights_file(number)), stage, structures)?;
    }
    Ok(())
}

fn stages(manifest: &Manifest) -> impl Iterator<Item = (u8, &StageManifest)> {
    let stages = [(1, &manifest.stage1), (2, &manifest.stage2)].into_iter();
    stages.filter_map(|(number, stage)| Some((number, stage.as_ref()?)))
}

fn problem(manifest: &Manifest) -> Option<String> {
    let of_stage = |(number, stage)| {
        let problem = stage_problem(number, stage)?;
        Some(format!("stage{number}.{problem}"))
    };
    let postprocessing = manifest.postprocessing.iter();
    let mut steps = postprocessing
        .flat_map(|all| &all.structures)
        .flat_map(|(name, chosen)| chosen.steps.iter().map(move |step| (name, step)));
    stages(manifest).find_map(of_stage).or_else(|| {
        steps.find_map(|(name, step)| {
            let problem = step.problem()?;
            Some(format!("postprocessing of '{name}': {problem}"))
        })
    })
}

fn stage_problem(number: u8, stage: &StageManifest) -> Option<String> {
    if let Some(problem) = stage.recipe.problem() {
        return Some(format!("recipe: {problem}"));
    }
    if stage.recipe.stage != number {
        return Some(format!("recipe: is for stage {}", stage.recipe.stage));
    }
    if stage.folds.is_empty() {
        return Some("folds: expected at least one".to_owned());
    }
    let is_range = |[low, high]: &[f32; 2]| low.is_finite() && high.is_finite() && low <= high;
    let mut seen = BTreeSet::new();
    stage.folds.iter().find_map(|fold| {
        let mut ranges = fold.input_ranges.iter().flat_map(|ranges| &ranges.0);
        if !seen.insert(fold.fold) {
            Some(format!("folds: {} is listed twice", fold.fold))
        } else if !ranges.all(is_range) {
            Some(format!(
                "folds: the input_ranges of {} must be pairs of finite numbers, the lower one first",
                fold.fold
            ))
        } else {
            None
        }
    })
}

/// Refuses a weight file that has too few values for the recipe's network. Reads only the file's header: no network is
/// created and no weights are read.
fn check_size(weights: &Path, stage: &StageManifest, structures: &[u16]) -> Result<()> {
    let shapes = read_shapes(weights)?;
    for fold in &stage.folds {
        let held = held_numbers(&shapes, &fold_prefix(fold.fold));
        let outputs = output_maps(&stage.recipe, structures).len();
        if let Some(problem) = size_problem(&stage.recipe, outputs, held)? {
            return Err(Error::file(
                weights,
                format!(
                    "fold {}: {problem}; copy, import or train the model again",
                    fold.fold
                ),
            ));
        }
    }
    Ok(())
}

/// Networks with at most this many parameters (64 MiB) are checked layer by layer when they are created, with better
/// messages.
const SMALL_NETWORK: u64 = 1 << 24;

/// Why weights with `held` values cannot be those of a recipe's network with `outputs` maps; `None` if they may be,
/// or if the network is small.
///
/// # Errors
/// A network that is impossible.
pub fn size_problem(recipe: &Recipe, outputs: usize, held: u64) -> Result<Option<String>> {
    let parameters = recipe.network.parameters(recipe.channels(), outputs)?;
    Ok((parameters > held.max(SMALL_NETWORK)).then(|| {
        format!(
            "its weights have {held} values, but the recipe's network has {parameters} parameters"
        )
    }))
}

fn held_numbers(shapes: &BTreeMap<String, Vec<usize>>, prefix: &str) -> u64 {
    let own = shapes
        .range(prefix.to_owned()..)
        .take_while(|(name, _)| name.starts_with(prefix));
    own.filter_map(|(_, shape)| elements_of(shape))
        .fold(0, |sum, elements| sum.saturating_add(elements as u64))
}
