//! The recipes of a plan before memory is asked: what they share, and what they differ in.

use super::memory::Budget;
use super::spacing::{self, Chosen};
use ctseg_core::dataset::Structure;
use ctseg_core::dataset::fingerprint::{Fingerprint, Intensities};

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
pub(super) fn margin_mm(coarse: &Chosen) -> [f64; 3] {
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
        halvings: 4,
        windows: vec![windows(facts.hu)[0]],
        neighbours: 0,
        ..single(facts)
    }
}

fn refine(facts: &Facts) -> Outline {
    Outline {
        name: "refine",
        title: "Stage 2: segments the structures inside the region that stage 1 found, patch by patch.",
        kind: "unet3d",
        widths: [32, 320],
        batches: &[2, 4],
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
        title: "Stage 2 on slices with their neighbours: segments the structures inside the region that stage 1 found.",
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
        title: "One stage alone on whole volumes, to compare two stages with.",
        stage: 2,
        kind: "unet2_5d",
        region: "whole",
        prior: false,
        extent_mm: scan,
        large_mm: scan,
        widths: [32, 512],
        halvings: 5,
        batches: &[2, 4, 8, 16],
        windows: windows(facts.hu),
        // What lies up to 7.5 mm above and below helps to tell what a slice shows.
        neighbours: (7.5 / fine.mm[2]).round().clamp(1.0, 3.0) as usize,
        nnunet: false,
        spacing: fine,
    }
}

fn nnunet(facts: &Facts) -> Outline {
    Outline {
        name: "nnunet-3d_fullres",
        title: "One stage as nnU-Net's 3d_fullres: network, loss, optimiser, schedule and augmentation, on whole volumes.",
        kind: "unet3d",
        widths: [32, 320],
        batches: &[2, 4],
        neighbours: 0,
        windows: vec![[facts.hu.percentile_00_5, facts.hu.percentile_99_5]],
        nnunet: true,
        ..single(facts)
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
