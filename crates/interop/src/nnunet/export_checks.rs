//! What nnU-Net does not do, found before anything is written.

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
                    "stage {} has no counterpart in nnU-Net: {problem}",
                    stage.recipe.stage
                ),
            ));
        }
    }
    Ok(())
}

/// `order` as in [`Exported`], and whether these are regions.
pub(super) fn check_labels(
    model: &Path,
    structures: &[Structure],
    (order, regions): (&[u16], bool),
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
                "has the label values {order:?}, and nnU-Net's are 1, 2, 3 …; write the dataset with 'ctseg convert --to nnunet' and train on that"
            ),
        ));
    }
    let meant = ["background", "ignore"];
    match structures.iter().find(|s| meant.contains(&s.name.as_str())) {
        Some(structure) => Err(Error::file(
            model,
            format!(
                "has a structure '{}', which means something else to nnU-Net; rename it",
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
    (order, regions): (&[u16], bool),
) -> Result<()> {
    let ways = |stage: &StageManifest| {
        let nnunet = stage.recipe.nnunet.as_ref();
        nnunet.map(|nnunet| (nnunet.axes, nnunet.transpose, nnunet.normalisation))
    };
    if first.is_some_and(|first| ways(first) != ways(last)) {
        return Err(Error::file(
            model,
            "is a cascade whose stages turn or normalise volumes in different ways, which one file of plans cannot say",
        ));
    }
    // A cascade's second stage sees a mask for each label, which nnU-Net counts among those of the regions.
    let mut all = order.to_vec();
    all.sort_unstable();
    let nnunet = last.recipe.nnunet.as_ref();
    let seen = nnunet.map_or(&[][..], |nnunet| &nnunet.previous_labels);
    if regions && !seen.is_empty() && all != seen {
        return Err(Error::file(
            model,
            format!(
                "is a cascade of regions whose labels {seen:?} are not the regions' own {all:?}: such a model cannot be written"
            ),
        ));
    }
    Ok(())
}

/// What of a stage nnU-Net does not do, if anything.
fn problem(recipe: &Recipe) -> Option<String> {
    let config = recipe.network.written_out().ok()?.config().clone();
    if recipe.nnunet.is_none() {
        let own = [
            (
                recipe.region == Region::Roi,
                "it works in a region of interest, and nnU-Net has none",
            ),
            (
                recipe.structures == Target::Union,
                "it marks all structures together",
            ),
            (
                recipe.outputs == Outputs::Independent,
                "its structures are independent (outputs = \"exclusive\" has a counterpart)",
            ),
            (
                recipe.network.dimensions() == 2,
                "its network sees whole slices, and nnU-Net's sees patches of them",
            ),
            (
                recipe.windows_hu.len() > 1,
                "it has several windows, and nnU-Net's CTNormalization has one",
            ),
            (
                matches!(recipe.normalisation, Normalisation::ZScore {}),
                "it normalises by the window's own mean, which ZScoreNormalization does not",
            ),
        ];
        if let Some((_, problem)) = own.iter().find(|(holds, _)| *holds) {
            return Some((*problem).to_owned());
        }
    }
    let network = [
        (
            config.norm != Some(NormKind::Instance),
            "its normalisation is not norm = \"instance\"",
        ),
        (
            config.downsampling != Some(Downsampling::Stride),
            "it pools (downsampling = \"stride\" has a counterpart)",
        ),
        (config.attention, "it has attention gates"),
        (
            config.neighbours.unwrap_or(0) > 0,
            "it sees neighbouring slices",
        ),
        (
            recipe.sliding.blending != Blending::Gaussian,
            "its patches are not blended by a Gaussian",
        ),
    ];
    let found = network.iter().find(|(holds, _)| *holds);
    found.map(|(_, problem)| (*problem).to_owned())
}
