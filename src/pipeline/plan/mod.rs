//! From a dataset in figures to stage recipes that fit its spacings, sizes, intensities and sides, and a memory
//! (after nnU-Net's experiment planner; Isensee et al., Nature Methods 2021).

mod memory;
mod patch;
mod spacing;
mod text;
mod topology;

use super::dataset::Structure;
use super::fingerprint::{Fingerprint, Intensities};
use super::recipe::Recipe;
use super::sides::sides_of;
use crate::error::{Error, Result};
use crate::tensors::precision::Precision;
pub use memory::{Estimate, estimated, input_shape};
use patch::{Fitted, Wanted, fitted};
pub use spacing::Chosen;
pub use topology::Topology;

/// What a training may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    pub bytes: u64,
    /// Whether the bytes are a GPU's: data then lies elsewhere.
    pub on_gpu: bool,
    pub precision: Precision,
}

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

/// What the recipes differ in before memory is asked.
pub(super) struct Outline {
    pub name: &'static str,
    pub title: &'static str,
    pub stage: u8,
    pub kind: &'static str,
    pub region: &'static str,
    pub prior: bool,
    pub spacing: Chosen,
    /// Of what the network looks at in use, x, y, z: a median case and a large one.
    pub extent_mm: [f64; 3],
    pub large_mm: [f64; 3],
    /// Width of the first level, and the most of any.
    pub widths: [usize; 2],
    pub halvings: usize,
    pub batches: &'static [usize],
    pub windows: Vec<[f64; 2]>,
    pub neighbours: usize,
    /// Trained as nnU-Net trains.
    pub nnunet: bool,
}

/// Everything about a dataset that all recipes share.
pub(super) struct Facts<'a> {
    pub fingerprint: &'a Fingerprint,
    pub structures: &'a [Structure],
    pub hu: &'a Intensities,
    /// Names of pairs, and the first structure of a side whose other side is missing.
    pub pairs: Vec<[String; 2]>,
    pub unpaired: Option<(String, String)>,
    pub budget: Budget,
    pub cache_mb: usize,
}

/// Millimetres that stage 1's region is grown by on each side: four voxels in the slice, eight across.
fn margin_mm(coarse: &Chosen) -> [f64; 3] {
    [
        (4.0 * coarse.mm[0]).round(),
        (4.0 * coarse.mm[1]).round(),
        (8.0 * coarse.mm[2].min(6.0)).round(),
    ]
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
        Error::invalid(format!(
            "dataset '{}': no case holds a voxel of any structure; expected label maps that mark something",
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

fn outlines(facts: &Facts) -> Vec<Outline> {
    let fingerprint = facts.fingerprint;
    let (coarse, fine) = (spacing::coarse(fingerprint), spacing::target(fingerprint));
    let margin = margin_mm(&coarse);
    let scan = fingerprint.median_extent_mm;
    let grown = |mm: [f64; 3]| -> [f64; 3] {
        std::array::from_fn(|axis| (mm[axis] + 2.0 * margin[axis]).min(scan[axis]))
    };
    let (region, large) = (
        grown(fingerprint.median_foreground_mm),
        grown(fingerprint.large_foreground_mm),
    );
    let windows = windows(facts.hu);
    // What lies up to 7.5 mm above and below helps to tell what a slice shows.
    let neighbours = (7.5 / fine.mm[2]).round().clamp(1.0, 3.0) as usize;
    let base = |name, title, kind, region: &'static str| Outline {
        name,
        title,
        stage: 2,
        kind,
        region,
        prior: region == "roi",
        spacing: fine.clone(),
        extent_mm: scan,
        large_mm: scan,
        widths: [32, 512],
        halvings: 5,
        batches: &[2, 4, 8, 16],
        windows: windows.clone(),
        neighbours,
        nnunet: false,
    };
    vec![
        Outline {
            stage: 1,
            spacing: coarse,
            widths: [16, 256],
            halvings: 4,
            windows: vec![windows[0]],
            neighbours: 0,
            ..base(
                "coarse",
                "Stage 1: finds the region of interest on a coarse grid.",
                "unet2d",
                "whole",
            )
        },
        Outline {
            extent_mm: region,
            large_mm: large,
            widths: [32, 320],
            batches: &[2, 4],
            neighbours: 0,
            ..base(
                "refine",
                "Stage 2: segments the structures inside the region that stage 1 found, patch by patch.",
                "unet3d",
                "roi",
            )
        },
        Outline {
            extent_mm: region,
            large_mm: large,
            ..base(
                "refine2_5d",
                "Stage 2 on slices with their neighbours: segments the structures inside the region that stage 1 found.",
                "unet2_5d",
                "roi",
            )
        },
        base(
            "single",
            "One stage alone on whole volumes, to compare two stages with.",
            "unet2_5d",
            "whole",
        ),
        Outline {
            widths: [32, 320],
            batches: &[2, 4],
            neighbours: 0,
            windows: vec![[facts.hu.percentile_00_5, facts.hu.percentile_99_5]],
            nnunet: true,
            ..base(
                "nnunet-3d_fullres",
                "One stage as nnU-Net's 3d_fullres: network, loss, optimiser, schedule and augmentation, on whole volumes.",
                "unet3d",
                "whole",
            )
        },
    ]
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
    let estimate =
        |topology: &Topology, batch: usize, width: usize| -> Result<(String, Recipe, Estimate)> {
            let fit = text::Fit {
                topology,
                batch,
                width,
                whole: false,
                estimate: None,
            };
            let text = text::written(facts, outline, &fit);
            let recipe = Recipe::parsed(&text, &format!("{}.toml", outline.name), &[])?;
            let estimate = estimated(&recipe, maps, facts.budget.precision, in_memory)?;
            Ok((text, recipe, estimate))
        };
    let allowed = |estimate: &Estimate| facts.budget.holds(estimate);
    // In little memory a network that is less wide sees more, which counts for more.
    const SMALLEST_SHARE: f64 = 0.25;
    let mut best: Option<(usize, Fitted)> = None;
    for width in [
        outline.widths[0],
        outline.widths[0] * 3 / 4,
        outline.widths[0] / 2,
    ] {
        let found = fitted(&wanted, |topology, batch| {
            Ok(allowed(&estimate(topology, batch, width)?.2))
        })?;
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
    let (width, found) = best.ok_or_else(|| Error::invalid("internal: nothing was tried"))?;
    let (_, _, estimate) = estimate(&found.topology, found.batch, width)?;
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

impl Budget {
    fn holds(&self, estimate: &Estimate) -> bool {
        self.taken(estimate) <= self.bytes
    }

    /// The bytes of an estimate that lie in the budget's memory.
    pub fn taken(&self, estimate: &Estimate) -> u64 {
        if self.on_gpu {
            estimate.on_device()
        } else {
            estimate.on_host()
        }
    }
}

/// All that structures consist of and, where that is wide, the soft tissue in its middle; HU, rounded to tens.
fn windows(hu: &Intensities) -> Vec<[f64; 2]> {
    /// The width of a soft-tissue window.
    const SOFT: f64 = 400.0;
    let tens = |v: f64| (v / 10.0).round() * 10.0;
    let (low, high) = (tens(hu.percentile_00_5), tens(hu.percentile_99_5));
    let all = [low, high.max(low + 50.0)];
    let middle = tens(hu.median);
    let soft = [middle - SOFT / 2.0, middle + SOFT / 2.0];
    if all[1] - all[0] > 2.0 * SOFT {
        vec![all, soft]
    } else {
        vec![all]
    }
}
