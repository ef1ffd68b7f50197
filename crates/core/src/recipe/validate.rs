//! What a recipe must keep to beside its types.

use super::training::Check;
use super::{Recipe, Region, Target};
use ctseg_augment::FlipAxis;
use ctseg_base::{Error, Result};

impl Recipe {
    /// The recipe itself, where it can be trained or used.
    ///
    /// # Errors
    /// The first thing that cannot be, with `origin` as the recipe's name.
    pub(super) fn validated(self, origin: &str) -> Result<Self> {
        let problem = failing(&self.task_checks())
            .or_else(|| failing(&self.network_checks()))
            .or_else(|| self.training.problem(self.outputs))
            .or_else(|| self.sliding.problem())
            .or_else(|| self.normalisation.problem(&self.windows_hu))
            .or_else(|| self.nnunet_problem())
            .map(str::to_owned)
            .or_else(|| self.postprocessing.problem());
        match problem {
            Some(problem) => Err(Error::file(origin, problem)),
            None => Ok(self),
        }
    }

    fn task_checks(&self) -> [Check; 10] {
        let positive = |v: f64| v.is_finite() && v > 0.0;
        [
            (matches!(self.stage, 1 | 2), "stage must be 1 or 2"),
            (
                self.spacing_mm.iter().all(|v| positive(*v)),
                "spacing_mm must be three positive numbers",
            ),
            (
                self.folds >= 1,
                "folds must be 1 or more (1 holds out a fifth of the patients)",
            ),
            (
                self.trained_folds().iter().all(|fold| *fold < self.folds)
                    && !self.trained_folds().is_empty(),
                "train_folds must name folds from 0 to folds − 1",
            ),
            (
                self.stage == 2 || self.region == Region::Whole,
                "stage 1 works on region = \"whole\"",
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
                !self.windows_hu.is_empty() && self.windows_hu.iter().all(|w| w.low_hu < w.high_hu),
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
                "roi.margin_mm and jitter must not be negative, jitter.drop_prior at most 1",
            ),
        ]
    }

    fn network_checks(&self) -> [Check; 3] {
        [
            (
                self.network.dimensions() == self.training.patch_size.dimensions(),
                "training.patch_size must be [y, x] for a network that works on slices and [z, y, x] for one that works on volumes",
            ),
            (
                self.nnunet.is_some() || self.training.patch_size.sides().iter().all(|v| *v >= 8),
                "training.patch_size must be 8 or more along every axis",
            ),
            (
                self.network.dimensions() == 3 || !self.training.flips(FlipAxis::Z),
                "training.augmentation.flip_axes: \"z\" is for networks that work on volumes",
            ),
        ]
    }

    fn nnunet_problem(&self) -> Option<&'static str> {
        let nnunet = self.nnunet.as_ref()?;
        nnunet.problem().or_else(|| {
            failing(&[
                (
                    !nnunet.mirror_axes.contains(&0) || self.network.dimensions() != 2,
                    "nnunet.mirror_axes: slices have the axes 1 and 2",
                ),
                (
                    self.spacing_mm
                        .iter()
                        .all(|mm| (0.01..=1000.0).contains(mm)),
                    "spacing_mm must lie between 0.01 and 1000",
                ),
            ])
        })
    }
}

fn failing(checks: &[Check]) -> Option<&'static str> {
    let mut failing = checks.iter().filter(|(holds, _)| !holds);
    failing.next().map(|(_, problem)| *problem)
}
