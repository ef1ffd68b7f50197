//! Finds features that nnU-Net does not support, before anything is written.

use std::path::Path;

use ctseg_base::{Error, Result};
use ctseg_core::dataset::Structure;
use ctseg_core::model::manifest::StageManifest;
use ctseg_core::recipe::{Blending, Recipe, Region, Target};
use ctseg_engine::blocks::NormKind;
use ctseg_engine::losses::Outputs;
use ctseg_engine::networks::Downsampling;
use ctseg_image::preprocess::normalisation::Normalisation;

pub(super) fn check_counterparts(
    model: &Path,
    first: Option<&StageManifest>,
    last: &StageManifest,
) -> Result<()> {
    for stage in first.into_iter().chain([last]) {
        if let Some(problem) = problem(&stage.recipe) {
            return Err(Error::file(
                model,
                format!(
                    "stage {} has no equivalent in nnU-Net: {problem}",
                    stage.recipe.stage
                ),
            ));
        }
    }
    Ok(())
}

/// `order` and `regions` as in `Exported`.
pub(super) fn check_labels(
    model: &Path,
    structures: &[Structure],
    order: &[u16],
    regions: bool,
) -> Result<()> {
    if !regions
        && order
            .iter()
            .enumerate()
            .any(|(at, value)| usize::from(*value) != at + 1)
    {
        return Err(Error::file(
            model,
            format!(
                "has the label values {order:?}, but nnU-Net requires 1, 2, 3 …; convert the dataset with 'ctseg convert --to nnunet' and train on it"
            ),
        ));
    }
    let reserved = ["background", "ignore"];
    match structures
        .iter()
        .find(|s| reserved.contains(&s.name.as_str()))
    {
        Some(structure) => Err(Error::file(
            model,
            format!(
                "has a structure '{}', a reserved name in nnU-Net; rename it",
                structure.name
            ),
        )),
        None => Ok(()),
    }
}

pub(super) fn check_cascade(
    model: &Path,
    first: Option<&StageManifest>,
    last: &StageManifest,
    order: &[u16],
    regions: bool,
) -> Result<()> {
    let preprocessing = |stage: &StageManifest| {
        let nnunet = stage.recipe.nnunet.as_ref();
        nnunet.map(|nnunet| (nnunet.axes, nnunet.transpose, nnunet.normalisation))
    };
    if first.is_some_and(|first| preprocessing(first) != preprocessing(last)) {
        return Err(Error::file(
            model,
            "is a cascade whose stages reorient or normalise volumes differently, which one plans file cannot express",
        ));
    }
    // A cascade's second stage takes one mask per label; nnU-Net takes them from the regions' labels.
    let mut all = order.to_vec();
    all.sort_unstable();
    let nnunet = last.recipe.nnunet.as_ref();
    let seen = nnunet.map_or(&[][..], |nnunet| &nnunet.previous_labels);
    if regions && !seen.is_empty() && all != seen {
        return Err(Error::file(
            model,
            format!(
                "is a cascade of regions with input labels {seen:?} and region labels {all:?}; export needs them to be equal"
            ),
        ));
    }
    Ok(())
}

/// The first feature of a stage that nnU-Net does not support, if any.
fn problem(recipe: &Recipe) -> Option<String> {
    let config = match recipe.network.written_out().ok()?.unet() {
        Some(config) => config.clone(),
        None => return Some(format!("its network is a {}", recipe.network.name())),
    };
    if recipe.nnunet.is_none() {
        let own = [
            (
                recipe.region == Region::Roi,
                "it works in a region of interest",
            ),
            (
                recipe.structures == Target::Union,
                "it segments all structures as one",
            ),
            (
                recipe.outputs == Outputs::Independent,
                "its outputs are independent (outputs = \"exclusive\" is supported)",
            ),
            (
                recipe.network.dimensions() == 2,
                "its network takes whole slices, but nnU-Net's takes patches of slices",
            ),
            (
                recipe.windows_hu.len() > 1,
                "it has several windows, but nnU-Net's CTNormalization has one",
            ),
            (
                matches!(recipe.normalisation, Normalisation::ZScore {}),
                "it applies a z-score within the window, which ZScoreNormalization does not",
            ),
        ];
        if let Some((_, problem)) = own.iter().find(|(holds, _)| *holds) {
            return Some((*problem).to_owned());
        }
    }
    let network = [
        (
            config.norm != Some(NormKind::Instance),
            "its network does not use norm = \"instance\"",
        ),
        (
            config.downsampling != Some(Downsampling::Stride),
            "it downsamples by pooling (downsampling = \"stride\" is supported)",
        ),
        (config.attention, "it has attention gates"),
        (
            config.neighbours.unwrap_or(0) > 0,
            "it takes neighbouring slices as input",
        ),
        (
            recipe.sliding.blending != Blending::Gaussian,
            "its patches are not blended with a Gaussian",
        ),
    ];
    let found = network.iter().find(|(holds, _)| *holds);
    found.map(|(_, problem)| (*problem).to_owned())
}
