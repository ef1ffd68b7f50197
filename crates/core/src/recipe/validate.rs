//! Validation of recipes beyond their types.

use std::collections::BTreeSet;

use super::training::Check;
use super::{Recipe, Region, Target};
use ctseg_augment::FlipAxis;
use ctseg_base::{Error, Result};
use ctseg_image::preprocess::channels::Window;

/// More than any dataset needs.
const MAX_FOLDS: usize = 1000;

/// Larger values are mistakes that would overflow or exhaust memory.
const MAX_EPOCHS: usize = 1_000_000;
const MAX_BATCH_SIZE: usize = 4096;
const MAX_PATCHES: usize = 100_000_000;
const MAX_CACHE_MB: usize = 1 << 30;
const MAX_WINDOWS: usize = 64;

/// Maximum voxels of a patch: a cube of side 645.
const MAX_VOXELS: usize = 1 << 28;

impl Recipe {
    /// The recipe itself, if it is valid.
    ///
    /// # Errors
    /// The first invalid setting, with `origin` as the recipe's name.
    pub(super) fn validated(self, origin: &str) -> Result<Self> {
        match self.problem() {
            Some(problem) => Err(Error::file(origin, problem)),
            None => Ok(self),
        }
    }

    /// The first invalid setting, if any.
    pub fn problem(&self) -> Option<String> {
        failing(&self.task_checks())
            .or_else(|| failing(&self.bounds()))
            .or_else(|| failing(&self.network_checks()))
            .or_else(|| self.training.problem(self.outputs))
            .or_else(|| self.sliding.problem())
            .or_else(|| self.normalisation.problem(&self.windows_hu))
            .or_else(|| self.nnunet_problem())
            .map(str::to_owned)
            .or_else(|| self.network.problem())
            .or_else(|| self.postprocessing.problem())
    }

    fn task_checks(&self) -> [Check; 10] {
        let trained = self.train_folds.as_ref();
        [
            (matches!(self.stage, 1 | 2), "stage must be 1 or 2"),
            (
                self.spacing_mm
                    .iter()
                    .all(|mm| (0.01..=1000.0).contains(mm)),
                "spacing_mm must be three numbers from 0.01 to 1000",
            ),
            (
                (1..=MAX_FOLDS).contains(&self.folds),
                "folds must be 1 to 1000 (1 holds out 20 % of the patients)",
            ),
            (
                trained.is_none_or(|folds| {
                    let each: BTreeSet<usize> = folds.iter().copied().collect();
                    let inside = each.iter().all(|fold| *fold < self.folds);
                    inside && !each.is_empty() && each.len() == folds.len()
                }),
                "train_folds must name folds from 0 to folds − 1, each at most once",
            ),
            (
                self.stage == 2 || self.region == Region::Whole,
                "stage 1 needs region = \"whole\"",
            ),
            (
                self.stage == 1 || self.structures == Target::Each,
                "stage 2 needs structures = \"each\"",
            ),
            (
                !self.prior || self.region == Region::Roi,
                "prior = true needs region = \"roi\"",
            ),
            (
                !self.windows_hu.is_empty() && self.windows_hu.iter().all(is_window),
                "windows_hu needs at least one [low, high] with low < high",
            ),
            (
                (0.0..1.0).contains(&self.roi.threshold),
                "roi.threshold must lie in [0, 1)",
            ),
            (
                self.roi
                    .margin_mm
                    .iter()
                    .all(|v| v.is_finite() && *v >= 0.0)
                    && self.jitter.shift_mm >= 0.0
                    && self.jitter.grow_mm >= 0.0
                    && (0.0..=1.0).contains(&self.jitter.drop_prior),
                "roi.margin_mm and jitter must not be negative, and jitter.drop_prior at most 1",
            ),
        ]
    }

    /// Upper bounds, against overflow and memory exhaustion.
    fn bounds(&self) -> [Check; 7] {
        let training = &self.training;
        let voxels = |all: usize, side: &usize| all.checked_mul(*side);
        let voxels = training.patch_size.sides().iter().try_fold(1, voxels);
        [
            (
                training.epochs <= MAX_EPOCHS,
                "training.epochs must be at most 1000000",
            ),
            (
                training.batch_size.max(training.micro_batches) <= MAX_BATCH_SIZE,
                "training.batch_size and micro_batches must be at most 4096",
            ),
            (
                voxels.is_some_and(|voxels| voxels <= MAX_VOXELS),
                "training.patch_size must have sides of at most 4096 and at most 2^28 voxels",
            ),
            (
                training
                    .patches_per_epoch
                    .is_none_or(|count| count <= MAX_PATCHES),
                "training.patches_per_epoch must be at most 100000000",
            ),
            (
                training.cache_mb <= MAX_CACHE_MB,
                "training.cache_mb must be at most 1073741824",
            ),
            (
                self.windows_hu.len() <= MAX_WINDOWS,
                "windows_hu must have at most 64 windows",
            ),
            (
                (0.0..=1.0).contains(&self.roi.smallest_component)
                    && self.jitter.shift_mm.is_finite()
                    && self.jitter.grow_mm.is_finite(),
                "roi.smallest_component must lie in [0, 1], and jitter must be finite",
            ),
        ]
    }

    fn network_checks(&self) -> [Check; 3] {
        [
            (
                self.network.dimensions() == self.training.patch_size.dimensions(),
                "training.patch_size must be [y, x] for a 2D network and [z, y, x] for a 3D network",
            ),
            (
                self.nnunet.is_some() || self.training.patch_size.sides().iter().all(|v| *v >= 8),
                "training.patch_size must be at least 8 along every axis",
            ),
            (
                self.network.dimensions() == 3 || !self.training.flips(FlipAxis::Z),
                "training.augmentation.flip_axes: \"z\" needs a 3D network",
            ),
        ]
    }

    fn nnunet_problem(&self) -> Option<&'static str> {
        let nnunet = self.nnunet.as_ref()?;
        nnunet.problem().or_else(|| {
            failing(&[(
                !nnunet.mirror_axes.contains(&0) || self.network.dimensions() != 2,
                "nnunet.mirror_axes: 2D networks have the axes 1 and 2",
            )])
        })
    }
}

fn is_window(window: &Window) -> bool {
    window.low_hu.is_finite() && window.high_hu.is_finite() && window.low_hu < window.high_hu
}

fn failing(checks: &[Check]) -> Option<&'static str> {
    let mut failing = checks.iter().filter(|(holds, _)| !holds);
    failing.next().map(|(_, problem)| *problem)
}

#[cfg(test)]
mod tests {
    use super::super::load::tests::refused;
    use super::*;

    #[test]
    fn huge_numbers_are_refused() {
        const HUGE: &str = "4611686018427387904";
        let huge = |key: &str| format!("{key}={HUGE}");
        for (key, expected) in [
            ("folds", "folds must be 1 to 1000"),
            ("training.batch_size", "batch_size"),
            ("training.micro_batches", "micro_batches"),
            ("training.epochs", "epochs"),
            ("training.patches_per_epoch", "patches_per_epoch"),
            ("training.cache_mb", "cache_mb"),
        ] {
            refused(&[(huge(key).as_str(), expected)]);
        }
        refused(&[
            ("training.patch_size=[1000000, 1000000]", "patch_size"),
            ("spacing_mm=[1e-9, 1, 1]", "spacing_mm"),
            ("spacing_mm=[nan, 1, 1]", "spacing_mm"),
            ("windows_hu=[[-inf, 5]]", "windows_hu"),
            ("train_folds=[0, 0]", "each at most once"),
            ("jitter.shift_mm=inf", "jitter"),
        ]);
        let windows = format!("windows_hu=[{}]", "[0, 1],".repeat(65));
        refused(&[(windows.as_str(), "at most 64 windows")]);
    }

    #[test]
    fn impossible_networks_are_refused() {
        refused(&[
            ("network.widths=[16385, 4]", "network.widths"),
            (
                "network={kind='resenc2d', widths=[4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4]}",
                "2 to 10 levels",
            ),
            (
                "network={kind='unet2_5d', neighbours=9223372036854775807}",
                "network.neighbours",
            ),
        ]);
        let ten = "network={kind='resenc2d', widths=[4, 4, 4, 4, 4, 4, 4, 4, 4, 4]}";
        let recipe = Recipe::named("1", &[ten.to_owned()]).unwrap();
        assert_eq!(recipe.network.multiple(), [1, 512, 512]);
    }

    #[test]
    fn deep_or_many_keys_give_one_error() {
        let deep = format!("a{}=1", ".a".repeat(60_000));
        refused(&[(deep.as_str(), "a key of 60001 parts")]);
        let text: String = (0..20_000).map(|key| format!("k{key} = 1\n")).collect();
        let error = Recipe::parsed(&text, "r.toml", &[])
            .unwrap_err()
            .to_string();
        assert!(error.contains("r.toml") && error.len() < 2000, "{error}");
    }
}
