//! From a dataset in figures to stage recipes that fit its spacings, sizes, intensities and sides, and a memory
//! (after nnU-Net's experiment planner; Isensee et al., Nature Methods 2021).

mod memory;
mod outline;
mod patch;
mod spacing;
mod text;
mod topology;

pub use memory::{Budget, Estimate, estimated, input_shape};
pub use spacing::Chosen;
pub use topology::Topology;

use ctseg_base::{Error, Result};
use ctseg_core::dataset::Structure;
use ctseg_core::dataset::fingerprint::Fingerprint;
use ctseg_core::dataset::laterality::sides_of;
use ctseg_core::recipe::Recipe;

use outline::{Facts, Outline, outlines};
use patch::{Fitted, Wanted, fitted};

/// A recipe as it is written.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// TOML with comments that say why.
    pub text: String,
    pub recipe: Recipe,
    pub estimate: Estimate,
    /// Whether it fits into the budget.
    pub fits: bool,
}

/// The names of the recipes that [`plan`] makes, in order.
pub const NAMES: [&str; 5] = [
    "coarse",
    "refine",
    "refine2_5d",
    "single",
    "nnunet-3d_fullres",
];

/// The recipes of [`NAMES`].
///
/// # Errors
/// A dataset without a single voxel of a structure.
pub fn plan(
    fingerprint: &Fingerprint,
    structures: &[Structure],
    budget: Budget,
) -> Result<Vec<Planned>> {
    let hu = fingerprint.foreground_hu.as_ref().ok_or_else(|| {
        let (which, wanted) = match fingerprint.not_hu.is_empty() {
            true => ("", ""),
            false => (" whose values look like Hounsfield units", ", and CT in Hounsfield units (--rescale-hu)"),
        };
        Error::invalid(format!(
            "dataset '{}': no case{which} holds a voxel of any structure; expected label maps that mark something{wanted}",
            fingerprint.dataset
        ))
    })?;
    let (pairs, unpaired) = sides_of(structures);
    let facts = Facts {
        fingerprint,
        structures,
        hu,
        pairs,
        unpaired,
        budget,
        // An eighth for what is kept of the data, within what training is used to.
        cache_mb: ((budget.bytes >> 20) as usize / 8).clamp(128, 2048),
    };
    outlines(&facts)
        .iter()
        .map(|outline| planned(&facts, outline))
        .collect()
}

/// Patch, depth and batch that fit, and the text that says so.
fn planned(facts: &Facts, outline: &Outline) -> Result<Planned> {
    let flat = outline.kind != "unet3d";
    let spacing_zyx = [2, 1, 0].map(|axis| outline.spacing.mm[axis]);
    let voxels = |mm: [f64; 3]| [2, 1, 0].map(|axis| mm[axis] / outline.spacing.mm[axis]);
    let case_zyx = voxels(outline.large_mm);
    let axes = if flat { 1.. } else { 0.. };
    let wanted = Wanted {
        spacing_mm: &spacing_zyx[axes.clone()],
        case: &case_zyx[axes],
        batches: outline.batches,
        halvings: outline.halvings,
    };
    let source: f64 = (0..3)
        .map(|axis| {
            facts.fingerprint.median_extent_mm[axis] / facts.fingerprint.median_spacing_mm[axis]
        })
        .product();
    let in_memory = [case_zyx.iter().product(), source];
    let maps = if outline.stage == 1 {
        1
    } else {
        facts.structures.len()
    };
    let estimate = |topology: &Topology, batch: usize, width: usize| -> Result<Estimate> {
        let fit = text::Fit {
            topology,
            batch,
            width,
            whole: false,
            estimate: None,
        };
        let text = text::written(facts, outline, &fit);
        let recipe = Recipe::parsed(&text, &format!("{}.toml", outline.name), &[])?;
        estimated(&recipe, maps, facts.budget.precision, in_memory)
    };
    let (width, found) = widest(outline.widths[0], &wanted, |topology, batch, width| {
        Ok(facts.budget.holds(&estimate(topology, batch, width)?))
    })?;
    let estimate = estimate(&found.topology, found.batch, width)?;
    let fit = text::Fit {
        topology: &found.topology,
        batch: found.batch,
        width,
        whole: found.whole,
        estimate: Some(estimate),
    };
    let text = text::written(facts, outline, &fit);
    Ok(Planned {
        recipe: Recipe::parsed(&text, &format!("{}.toml", outline.name), &[])?,
        fits: facts.budget.holds(&estimate),
        text,
        estimate,
    })
}

/// The widest network, of `most` channels on its first level or less, whose patch sees enough of a case, or else the
/// narrowest: in little memory a network that is less wide sees more, which counts for more. With its patch and batch.
///
/// `fits` says whether a topology with a batch and a width does.
fn widest(
    most: usize,
    wanted: &Wanted,
    fits: impl Fn(&Topology, usize, usize) -> Result<bool>,
) -> Result<(usize, Fitted)> {
    const SMALLEST_SHARE: f64 = 0.25;
    let mut best: Option<(usize, Fitted)> = None;
    for width in [most, most * 3 / 4, most / 2] {
        let found = fitted(wanted, |topology, batch| fits(topology, batch, width))?;
        let seen: f64 = found
            .topology
            .patch
            .iter()
            .map(|side| *side as f64)
            .product();
        let enough = found.whole || seen >= SMALLEST_SHARE * wanted.case.iter().product::<f64>();
        let done = found.fits && enough;
        best = Some((width, found));
        if done {
            break;
        }
    }
    best.ok_or_else(|| Error::invalid("internal: nothing was tried"))
}
