//! Plans stage recipes from a dataset fingerprint and a memory budget (after nnU-Net's experiment planner; Isensee et
//! al., Nature Methods 2021).

mod memory;
mod outline;
mod patch;
mod spacing;
mod text;
mod topology;

pub use memory::{Budget, Estimate, estimate_memory, input_shape};
pub use spacing::ChosenSpacing;
pub use topology::Topology;

use ctseg_base::{Error, Result};
use ctseg_core::dataset::Structure;
use ctseg_core::dataset::fingerprint::Fingerprint;
use ctseg_core::dataset::laterality::lateral_pairs;
use ctseg_core::recipe::Recipe;

use outline::{Facts, Outline, outlines};
use patch::{FittedPatch, PatchConstraints, fit_patch};

#[derive(Debug, Clone, PartialEq)]
pub struct PlannedRecipe {
    /// TOML with comments that give the reasons.
    pub text: String,
    pub recipe: Recipe,
    pub estimate: Estimate,
    /// Whether it fits into the budget.
    pub fits: bool,
}

/// The names of the recipes that [`plan`] returns, in order.
pub const NAMES: [&str; 5] = [
    "coarse",
    "refine",
    "refine2_5d",
    "single",
    "nnunet-3d_fullres",
];

/// Plans the recipes in [`NAMES`].
///
/// # Errors
/// No case holds a voxel of any structure.
pub fn plan(
    fingerprint: &Fingerprint,
    structures: &[Structure],
    budget: Budget,
) -> Result<Vec<PlannedRecipe>> {
    let hu = fingerprint.foreground_hu.as_ref().ok_or_else(|| {
        let (which, wanted) = match fingerprint.not_hu.is_empty() {
            true => ("", ""),
            false => (" whose values look like Hounsfield units", ", and CT in Hounsfield units (--rescale-hu)"),
        };
        Error::invalid(format!(
            "dataset '{}': no case{which} holds a voxel of any structure; expected label maps with labelled voxels{wanted}",
            fingerprint.dataset
        ))
    })?;
    let (pairs, unpaired) = lateral_pairs(structures);
    let facts = Facts {
        fingerprint,
        structures,
        hu,
        pairs,
        unpaired,
        budget,
        // An eighth of the budget for the data cache, within reasonable limits.
        cache_mb: ((budget.bytes >> 20) as usize / 8).clamp(128, 2048),
    };
    outlines(&facts)
        .iter()
        .map(|outline| plan_recipe(&facts, outline))
        .collect()
}

/// Finds patch, depth and batch size that fit, and writes the recipe.
fn plan_recipe(facts: &Facts, outline: &Outline) -> Result<PlannedRecipe> {
    let flat = outline.kind != "unet3d";
    let spacing_zyx = [2, 1, 0].map(|axis| outline.spacing.mm[axis]);
    let voxels = |mm: [f64; 3]| [2, 1, 0].map(|axis| mm[axis] / outline.spacing.mm[axis]);
    let case_zyx = voxels(outline.large_mm);
    let axes = if flat { 1.. } else { 0.. };
    let constraints = PatchConstraints {
        spacing_mm: &spacing_zyx[axes.clone()],
        case_voxels: &case_zyx[axes],
        batch_sizes: outline.batch_sizes,
        max_halvings: outline.max_halvings,
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
    let estimate = |topology: &Topology, batch_size: usize, width: usize| -> Result<Estimate> {
        let fit = text::Fit {
            topology,
            batch_size,
            width,
            covers_case: false,
            estimate: None,
        };
        let text = text::recipe_toml(facts, outline, &fit);
        let recipe = Recipe::parsed(&text, &format!("{}.toml", outline.name), &[])?;
        estimate_memory(&recipe, maps, facts.budget.precision, in_memory)
    };
    let FittedNetwork { width, patch } = widest_network(
        outline.widths[0],
        &constraints,
        |topology, batch_size, width| {
            Ok(facts.budget.fits(&estimate(topology, batch_size, width)?))
        },
    )?;
    let estimate = estimate(&patch.topology, patch.batch_size, width)?;
    let fit = text::Fit {
        topology: &patch.topology,
        batch_size: patch.batch_size,
        width,
        covers_case: patch.covers_case,
        estimate: Some(estimate),
    };
    let text = text::recipe_toml(facts, outline, &fit);
    Ok(PlannedRecipe {
        recipe: Recipe::parsed(&text, &format!("{}.toml", outline.name), &[])?,
        fits: facts.budget.fits(&estimate),
        text,
        estimate,
    })
}

/// A network's width and patch that fit into memory.
struct FittedNetwork {
    /// Channels on the first level.
    width: usize,
    patch: FittedPatch,
}

/// The widest network, with at most `max_width` channels on its first level, whose patch covers enough of a case,
/// otherwise the narrowest; with its patch and batch size. In little memory a narrower network has a larger patch,
/// which matters more.
///
/// `fits` tests a topology with a batch size and a width.
fn widest_network(
    max_width: usize,
    constraints: &PatchConstraints,
    fits: impl Fn(&Topology, usize, usize) -> Result<bool>,
) -> Result<FittedNetwork> {
    const MIN_COVERAGE: f64 = 0.25;
    let mut best = None;
    for width in [max_width, max_width * 3 / 4, max_width / 2] {
        let found = fit_patch(constraints, |topology, batch_size| {
            fits(topology, batch_size, width)
        })?;
        let patch_voxels: f64 = found
            .topology
            .patch
            .iter()
            .map(|side| *side as f64)
            .product();
        let case_voxels = constraints.case_voxels.iter().product::<f64>();
        let covers_enough = found.covers_case || patch_voxels >= MIN_COVERAGE * case_voxels;
        let done = found.fits && covers_enough;
        best = Some(FittedNetwork {
            width,
            patch: found,
        });
        if done {
            break;
        }
    }
    best.ok_or_else(|| Error::internal("no network width was tried"))
}
