//! Outlines of the planned recipes, before patch and batch are fitted into memory.

use super::memory::Budget;
use super::spacing::{self, ChosenSpacing};
use ctseg_core::dataset::Structure;
use ctseg_core::dataset::fingerprint::{Fingerprint, Intensities};

/// The settings in which the recipes differ.
pub(super) struct Outline {
    pub name: &'static str,
    pub title: &'static str,
    pub stage: u8,
    pub kind: &'static str,
    pub region: &'static str,
    pub prior: bool,
    pub spacing: ChosenSpacing,
    /// Extent (x, y, z) of the network's input at inference: of a median case and of a large one.
    pub extent_mm: [f64; 3],
    pub large_mm: [f64; 3],
    /// Width of the first level, and the maximum of any level.
    pub widths: [usize; 2],
    pub max_halvings: usize,
    pub batch_sizes: &'static [usize],
    pub windows: Vec<[f64; 2]>,
    pub neighbours: usize,
    /// Trained with nnU-Net's settings.
    pub nnunet: bool,
}

/// Dataset and budget, shared by all recipes.
pub(super) struct Facts<'a> {
    pub fingerprint: &'a Fingerprint,
    pub structures: &'a [Structure],
    pub hu: &'a Intensities,
    /// Names of left and right pairs, and the first structure whose counterpart is missing, with the missing name.
    pub pairs: Vec<[String; 2]>,
    pub unpaired: Option<(String, String)>,
    pub budget: Budget,
    pub cache_mb: usize,
}

/// Margin of stage 1's region on each side: four voxels in-plane, eight along z.
pub(super) fn margin_mm(coarse: &ChosenSpacing) -> [f64; 3] {
    [
        (4.0 * coarse.mm[0]).round(),
        (4.0 * coarse.mm[1]).round(),
        (8.0 * coarse.mm[2].min(6.0)).round(),
    ]
}

/// All recipes, in the order of [`super::NAMES`].
pub(super) fn outlines(facts: &Facts) -> Vec<Outline> {
    vec![
        coarse(facts),
        refine(facts),
        refine2_5d(facts),
        single(facts),
        nnunet(facts),
    ]
}

fn coarse(facts: &Facts) -> Outline {
    Outline {
        name: "coarse",
        title: "Stage 1: finds the region of interest on a coarse grid.",
        stage: 1,
        kind: "unet2d",
        spacing: spacing::coarse(facts.fingerprint),
        widths: [16, 256],
        max_halvings: 4,
        windows: vec![windows(facts.hu)[0]],
        neighbours: 0,
        ..single(facts)
    }
}

fn refine(facts: &Facts) -> Outline {
    Outline {
        name: "refine",
        title: "Stage 2: segments the structures inside stage 1's region, patch by patch.",
        kind: "unet3d",
        widths: [32, 320],
        batch_sizes: &[2, 4],
        neighbours: 0,
        ..refine2_5d(facts)
    }
}

fn refine2_5d(facts: &Facts) -> Outline {
    let fingerprint = facts.fingerprint;
    let margin = margin_mm(&spacing::coarse(fingerprint));
    let scan = fingerprint.median_extent_mm;
    let grown = |mm: [f64; 3]| -> [f64; 3] {
        std::array::from_fn(|axis| (mm[axis] + 2.0 * margin[axis]).min(scan[axis]))
    };
    Outline {
        name: "refine2_5d",
        title: "Stage 2 in 2.5D: segments the structures inside stage 1's region, on slices with their neighbours.",
        region: "roi",
        prior: true,
        extent_mm: grown(fingerprint.median_foreground_mm),
        large_mm: grown(fingerprint.large_foreground_mm),
        ..single(facts)
    }
}

fn single(facts: &Facts) -> Outline {
    let fine = spacing::target(facts.fingerprint);
    let scan = facts.fingerprint.median_extent_mm;
    Outline {
        name: "single",
        title: "A single stage on whole volumes, as a baseline for two stages.",
        stage: 2,
        kind: "unet2_5d",
        region: "whole",
        prior: false,
        extent_mm: scan,
        large_mm: scan,
        widths: [32, 512],
        max_halvings: 5,
        batch_sizes: &[2, 4, 8, 16],
        windows: windows(facts.hu),
        // Up to 7.5 mm of context above and below each slice.
        neighbours: (7.5 / fine.mm[2]).round().clamp(1.0, 3.0) as usize,
        nnunet: false,
        spacing: fine,
    }
}

fn nnunet(facts: &Facts) -> Outline {
    Outline {
        name: "nnunet-3d_fullres",
        title: "A single stage like nnU-Net's 3d_fullres: network, loss, optimiser, schedule and augmentation, on whole volumes.",
        kind: "unet3d",
        widths: [32, 320],
        batch_sizes: &[2, 4],
        neighbours: 0,
        windows: vec![[facts.hu.percentile_00_5, facts.hu.percentile_99_5]],
        nnunet: true,
        ..single(facts)
    }
}

/// A window over the HU range of the structures and, if that is wide, a soft-tissue window in its middle; rounded to
/// tens.
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
