//! Training settings: `[training]` of a recipe.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::PatchSize;
use super::keep::Keep;
use super::schedule::Schedule;
use ctseg_augment::{Augmentation, FlipAxis};
use ctseg_engine::losses::{LossConfig, Outputs, name_or_section};
use ctseg_engine::optim::OptimiserConfig;

static WARMUP: LazyLock<String> = LazyLock::new(|| {
    let schedules = Schedule::ALL
        .iter()
        .filter(|schedule| schedule.has_warmup());
    let names: Vec<String> = schedules.map(|s| format!("\"{}\"", s.name())).collect();
    format!(
        "training.warmup_epochs needs schedule = {}, and must be less than epochs",
        names.join(" or ")
    )
});

/// A condition, and the message if it does not hold.
pub(super) type Check = (bool, &'static str);

/// Training settings of a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainingConfig {
    /// The name of a loss, or a section `[training.loss]` with `kind` and settings.
    #[serde(with = "name_or_section")]
    pub loss: LossConfig,
    /// Loss weights of structures by name; default 1. With exclusive classes, `background` may have
    /// one too.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub class_weights: BTreeMap<String, f64>,
    pub epochs: usize,
    pub batch_size: usize,
    /// Patch size in voxels; larger slices and volumes are cropped.
    pub patch_size: PatchSize,
    /// How an epoch's slices are chosen (2D networks).
    #[serde(skip_serializing_if = "SliceSampling::is_every")]
    pub slice_sampling: SliceSampling,
    /// Slices without a structure per slice with one (`slice_sampling = "every"`).
    pub empty_slice_share: f64,
    /// Share of patches (3D, and balanced 2D) centred on a structure, structures of the case equally likely
    /// (nnU-Net's foreground oversampling); the others are anywhere.
    pub foreground_share: f64,
    /// Random slices or patches per epoch. Default: every slice once;
    /// for volumes, as many patches as cover them.
    #[serde(skip_serializing_if = "Option::is_none", alias = "slices_per_epoch")]
    pub patches_per_epoch: Option<usize>,
    /// Curriculum from easy to hard patches; off without the section.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub curriculum: Option<CurriculumConfig>,
    /// Data augmentation; off without the section.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub augmentation: Option<Augmentation>,
    pub optimiser: OptimiserConfig,
    /// Decay per step of the exponential moving average (EMA) of the weights, such as 0.999; limited to
    /// (1 + t) / (10 + t) after step t. The average is validated and saved; training continues
    /// from the raw weights. Off by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_average: Option<f64>,
    /// Number of frozen encoder levels, finest first (with the stem, if any): they keep the weights and
    /// running statistics of `--from`.
    #[serde(skip_serializing_if = "is_zero")]
    pub freeze_encoder_levels: usize,
    /// The epoch after which frozen levels are trained too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unfreeze_epoch: Option<usize>,
    /// Which epoch's weights go into the model.
    pub keep: Keep,
    /// Activation checkpointing: recompute activations in the backward pass; about half the memory for a
    /// third more time (libtorch).
    pub recompute: bool,
    /// Gradient accumulation: number of parts that a batch is split into. Less memory and the same gradient, except
    /// that batch normalisation uses the statistics of each part (libtorch).
    pub micro_batches: usize,
    /// Synchronised batch normalisation over all processes (libtorch).
    pub sync_norms: bool,
    pub schedule: Schedule,
    /// Epochs of linear learning-rate warm-up (`cosine` and `poly`).
    pub warmup_epochs: usize,
    pub plateau: PlateauConfig,
    pub early_stopping: EarlyStoppingConfig,
    /// Number of training cases evaluated like validation cases, in the first five epochs, every
    /// `watch_every` epochs, and the last; at most the number of validation cases. Used by the
    /// curves and the diagnosis of a run; 0 turns it off.
    pub watched_cases: usize,
    pub watch_every: usize,
    /// Minutes between checkpoints within an epoch; 0 writes one after every step. One is also written after every
    /// epoch.
    pub checkpoint_minutes: f64,
    /// Cache size in MB, half for source volumes and half for preprocessed ones; other cases are read
    /// again when needed.
    pub cache_mb: usize,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            loss: LossConfig::default(),
            class_weights: BTreeMap::new(),
            epochs: 50,
            batch_size: 8,
            patch_size: PatchSize::Slice([256, 256]),
            slice_sampling: SliceSampling::default(),
            empty_slice_share: 0.5,
            foreground_share: 0.33,
            patches_per_epoch: None,
            curriculum: None,
            augmentation: None,
            optimiser: OptimiserConfig::default(),
            weight_average: None,
            freeze_encoder_levels: 0,
            unfreeze_epoch: None,
            keep: Keep::default(),
            recompute: false,
            micro_batches: 1,
            sync_norms: false,
            schedule: Schedule::default(),
            warmup_epochs: 0,
            plateau: PlateauConfig::default(),
            early_stopping: EarlyStoppingConfig::default(),
            watched_cases: 2,
            watch_every: 5,
            checkpoint_minutes: 10.0,
            cache_mb: 2048,
        }
    }
}

impl TrainingConfig {
    /// The augmentation, if enabled.
    pub fn augmentation(&self) -> Option<&Augmentation> {
        self.augmentation.as_ref().filter(|a| a.enabled)
    }

    /// The share of easiest patches that an epoch is sampled from; none if from all.
    pub fn easiest_share(&self, epoch: usize) -> Option<f64> {
        let curriculum = self.curriculum.as_ref()?;
        let progress = epoch as f64 / curriculum.epochs as f64;
        (epoch < curriculum.epochs)
            .then_some(curriculum.easiest + (1.0 - curriculum.easiest) * progress)
    }

    /// Patch sampling and augmentation, in two lines.
    pub fn described_patches(&self) -> String {
        let sides: Vec<String> = self
            .patch_size
            .sides()
            .iter()
            .map(usize::to_string)
            .collect();
        let drawn = match (self.patch_size.dimensions(), self.slice_sampling) {
            (2, SliceSampling::Every) => "every slice".to_owned(),
            (2, SliceSampling::Balanced) => {
                format!(
                    "balanced slices, foreground share {}",
                    self.foreground_share
                )
            }
            _ => format!("foreground share {}", self.foreground_share),
        };
        let count = self.patches_per_epoch;
        let count = count.map_or(String::new(), |count| format!(", {count} per epoch"));
        let curriculum = self.curriculum.as_ref().map_or(String::new(), |c| {
            format!(
                ", curriculum from the easiest {}, all after {} epochs",
                c.easiest, c.epochs
            )
        });
        let changes = self.augmentation.as_ref();
        let changes = changes.map_or_else(|| "none".to_owned(), Augmentation::described);
        format!(
            "patches: {}, {drawn}{count}{curriculum}\naugmentation: {changes}",
            sides.join(" × ")
        )
    }

    /// Number of frozen encoder levels in the epoch after `epochs` epochs.
    pub fn frozen_levels(&self, epochs: usize) -> usize {
        match self.unfreeze_epoch {
            Some(end) if epochs >= end => 0,
            _ => self.freeze_encoder_levels,
        }
    }

    /// Whether patches are mirrored along an axis.
    pub fn flips(&self, axis: FlipAxis) -> bool {
        self.augmentation()
            .is_some_and(|augmentation| augmentation.flip_axes.contains(&axis))
    }

    /// Axes that patches are mirrored along: 0, 1, 2 for z, y, x.
    pub fn mirrored_axes(&self) -> Vec<usize> {
        let axes = [FlipAxis::Z, FlipAxis::Y, FlipAxis::X];
        (0..3).filter(|axis| self.flips(axes[*axis])).collect()
    }

    /// The first invalid setting, if any.
    pub(super) fn problem(&self, outputs: Outputs) -> Option<&'static str> {
        let checks = self.batch_checks().into_iter();
        let checks = checks
            .chain(self.optimisation_checks())
            .chain(self.epoch_checks());
        let mut failing = checks.filter(|(holds, _)| !holds);
        failing
            .next()
            .map(|(_, problem)| problem)
            .or_else(|| self.loss.problem(outputs))
            .or_else(|| self.augmentation.as_ref()?.problem())
    }

    fn batch_checks(&self) -> [Check; 4] {
        [
            (
                self.epochs > 0 && self.batch_size > 0,
                "training.epochs and batch_size must be at least 1",
            ),
            (
                self.patch_size
                    .sides()
                    .iter()
                    .all(|v| (1..=4096).contains(v)),
                "training.patch_size must be from 1 to 4096 along every axis",
            ),
            (
                self.empty_slice_share >= 0.0,
                "training.empty_slice_share must not be negative",
            ),
            (
                (0.0..=1.0).contains(&self.foreground_share),
                "training.foreground_share must lie in [0, 1]",
            ),
        ]
    }

    fn optimisation_checks(&self) -> [Check; 9] {
        let positive = |v: f64| v.is_finite() && v > 0.0;
        [
            (
                positive(self.optimiser.learning_rate) && positive(self.optimiser.clip_norm),
                "training.optimiser.learning_rate and clip_norm must be positive",
            ),
            (
                (0.0..1.0).contains(&self.optimiser.momentum),
                "training.optimiser.momentum must lie in [0, 1)",
            ),
            (
                positive(self.optimiser.eps)
                    && self
                        .optimiser
                        .betas
                        .iter()
                        .all(|beta| (0.0..1.0).contains(beta)),
                "training.optimiser.betas must be two numbers in [0, 1), such as [0.9, 0.999], and eps positive, such as 1e-8",
            ),
            (
                self.weight_average
                    .is_none_or(|decay| decay > 0.0 && decay < 1.0),
                "training.weight_average must lie between 0 and 1, such as 0.999; remove it to keep no average",
            ),
            (
                self.micro_batches > 0,
                "training.micro_batches must be at least 1",
            ),
            (
                self.micro_batches == 1 || !self.sync_norms,
                "training.sync_norms cannot be combined with training.micro_batches above 1; use one of them",
            ),
            (
                (0.0..1.0).contains(&self.plateau.factor) && self.plateau.factor > 0.0,
                "training.plateau.factor must lie between 0 and 1",
            ),
            (
                self.warmup_epochs == 0
                    || self.schedule.has_warmup() && self.warmup_epochs < self.epochs,
                &WARMUP,
            ),
            (
                self.class_weights
                    .values()
                    .all(|weight| weight.is_finite() && *weight >= 0.0),
                "training.class_weights must not be negative",
            ),
        ]
    }

    fn epoch_checks(&self) -> [Check; 6] {
        [
            (
                self.watch_every > 0,
                "training.watch_every must be at least 1",
            ),
            (
                self.unfreeze_epoch.is_none() || self.freeze_encoder_levels > 0,
                "training.unfreeze_epoch needs freeze_encoder_levels above 0",
            ),
            (
                self.checkpoint_minutes.is_finite() && self.checkpoint_minutes >= 0.0,
                "training.checkpoint_minutes must not be negative",
            ),
            (
                self.patches_per_epoch != Some(0),
                "training.patches_per_epoch must be at least 1",
            ),
            (
                self.patch_size.dimensions() == 2 || self.slice_sampling.is_every(),
                "training.slice_sampling needs a 2D network; patches of 3D networks are always balanced",
            ),
            (
                self.curriculum
                    .as_ref()
                    .is_none_or(|c| c.epochs > 0 && c.easiest > 0.0 && c.easiest <= 1.0),
                "training.curriculum needs epochs of at least 1, and easiest (the share for the first epoch) above 0 and at most 1",
            ),
        ]
    }
}

/// How an epoch's slices are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SliceSampling {
    /// All slices with a structure, and some of those without.
    #[default]
    Every,
    /// As for volumes: `foreground_share` of them on a structure, structures of the case and their slices equally
    /// likely, the others anywhere in the case.
    Balanced,
}

impl SliceSampling {
    fn is_every(&self) -> bool {
        *self == Self::Every
    }
}

/// A curriculum (Bengio et al., ICML 2009; pacing as in Hacohen and Weinshall, ICML 2019): the first epoch is sampled
/// from the easiest patches only; the share grows linearly to all patches after `epochs`. Patches with a larger share
/// of structure are easier. Difficulty depends on labels, not losses, so that an epoch is determined by seed and
/// number, resumed or not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CurriculumConfig {
    pub epochs: usize,
    /// Share of patches in the first epoch.
    #[serde(default = "first_share")]
    pub easiest: f64,
}

fn first_share() -> f64 {
    0.25
}

fn is_zero(value: &usize) -> bool {
    *value == 0
}

/// Reduce on plateau: after `patience` epochs without a better validation Dice, multiply the rate by `factor`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlateauConfig {
    pub factor: f64,
    pub patience: usize,
}

impl Default for PlateauConfig {
    fn default() -> Self {
        Self {
            factor: 0.5,
            patience: 5,
        }
    }
}

/// Early stopping: after `patience` epochs without a gain of `smallest_gain` in validation Dice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EarlyStoppingConfig {
    pub patience: usize,
    pub smallest_gain: f64,
}

impl Default for EarlyStoppingConfig {
    fn default() -> Self {
        Self {
            patience: 15,
            smallest_gain: 1e-3,
        }
    }
}
