//! The part of a recipe that says how a stage is trained.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::PatchSize;
use super::keep::Keep;
use ctseg_augment::{Augmentation, FlipAxis};
use ctseg_engine::losses::{LossConfig, Outputs, name_or_section};
use ctseg_engine::optim::OptimiserConfig;

/// What is claimed, and what is said where it does not hold.
pub(super) type Check = (bool, &'static str);

/// How a stage is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainingConfig {
    /// Its name, or a section `[training.loss]` with `kind` and settings.
    #[serde(with = "name_or_section")]
    pub loss: LossConfig,
    /// How much structures count in the loss, by name; 1 where nothing is said. Of exclusive classes one may
    /// be `background`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub class_weights: BTreeMap<String, f64>,
    pub epochs: usize,
    pub batch_size: usize,
    /// Largest part of a slice or volume in voxels that the network is trained on.
    pub patch_size: PatchSize,
    /// Which slices an epoch shows (networks that work on slices).
    #[serde(skip_serializing_if = "SliceSampling::is_every")]
    pub slice_sampling: SliceSampling,
    /// How many slices without any structure are shown per slice with one, where every slice is.
    pub empty_slice_share: f64,
    /// Share of the patches of volumes, and of slices where they are balanced, that are drawn for a structure,
    /// every structure of the case as often (nnU-Net's foreground oversampling); the others lie anywhere.
    pub foreground_share: f64,
    /// How many slices or patches, drawn at random, an epoch shows. Where nothing is said: every slice once,
    /// and of volumes as many patches as fill them.
    #[serde(skip_serializing_if = "Option::is_none", alias = "slices_per_epoch")]
    pub patches_per_epoch: Option<usize>,
    /// From easy to hard patches; all of them from the beginning where the section is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub curriculum: Option<CurriculumConfig>,
    /// Random changes of the slices; none where the section is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub augmentation: Option<Augmentation>,
    pub optimiser: OptimiserConfig,
    /// How much of the weights' average over the steps is left after one more step, such as 0.999; less in
    /// the first steps: at most (1 + t) / (10 + t) after step t. The average is validated and kept, training
    /// goes on from the weights themselves. None where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_average: Option<f64>,
    /// So many levels of the encoder, the finest first (with the stem, where there is one), keep the weights and
    /// running statistics of `--from` exactly.
    #[serde(skip_serializing_if = "is_zero")]
    pub freeze_encoder_levels: usize,
    /// After so many epochs they learn as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unfreeze_epoch: Option<usize>,
    /// Which epoch's weights go into the model.
    pub keep: Keep,
    /// Activations are computed again on the way back instead of being kept: about half the memory for a
    /// third more time (libtorch).
    pub recompute: bool,
    /// In how many parts a batch passes through the network: less memory, the same gradient but for batch
    /// normalisation, whose statistics are those of a part (libtorch).
    pub micro_batches: usize,
    /// Batch normalisation sees the batches that several processes share, and not each its own share (libtorch).
    pub sync_norms: bool,
    pub schedule: Schedule,
    /// Epochs at the beginning over which the rate rises (`cosine` and `poly`).
    pub warmup_epochs: usize,
    pub plateau: PlateauConfig,
    pub early_stopping: EarlyStoppingConfig,
    /// How many of the cases that a network is trained on are measured as the held-out ones are, in the first
    /// five epochs, after every `watch_every` epochs, and the last; at most as many as are held out. What a run's
    /// curves and its diagnosis compare; 0 leaves it out.
    pub watched_cases: usize,
    pub watch_every: usize,
    /// A checkpoint is written after every epoch, and after so many minutes within one; 0 after every step.
    pub checkpoint_minutes: f64,
    /// Memory for volumes in MB, one half for source volumes, one for prepared ones; the rest is read
    /// again when its turn comes.
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
    /// The random changes of training slices, where they are switched on.
    pub fn augmentation(&self) -> Option<&Augmentation> {
        self.augmentation.as_ref().filter(|a| a.enabled)
    }

    /// The share of the easiest patches that an epoch is drawn from; none where it is drawn from all.
    pub fn easiest_share(&self, epoch: usize) -> Option<f64> {
        let curriculum = self.curriculum.as_ref()?;
        let gone = epoch as f64 / curriculum.epochs as f64;
        (epoch < curriculum.epochs)
            .then_some(curriculum.easiest + (1.0 - curriculum.easiest) * gone)
    }

    /// Which patches an epoch shows and how they are changed, in two lines.
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
                format!("balanced slices, {} for a structure", self.foreground_share)
            }
            _ => format!("{} around a structure", self.foreground_share),
        };
        let count = self.patches_per_epoch;
        let count = count.map_or(String::new(), |count| format!(", {count} an epoch"));
        let curriculum = self.curriculum.as_ref().map_or(String::new(), |c| {
            format!(
                ", the easiest {} first, all after {} epochs",
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

    /// Levels of the encoder that are frozen in the epoch after `epochs` epochs.
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

    /// Of z, y, x (0, 1, 2) those that patches are mirrored along.
    pub fn mirrored_axes(&self) -> Vec<usize> {
        let axes = [FlipAxis::Z, FlipAxis::Y, FlipAxis::X];
        (0..3).filter(|axis| self.flips(axes[*axis])).collect()
    }

    /// What cannot work, if anything.
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
                "training.epochs and batch_size must be 1 or more",
            ),
            (
                self.patch_size
                    .sides()
                    .iter()
                    .all(|v| (1..=4096).contains(v)),
                "training.patch_size must lie between 1 and 4096",
            ),
            (
                self.empty_slice_share >= 0.0,
                "training.empty_slice_share must be 0 or more",
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
                "training.weight_average must lie between 0 and 1, such as 0.999; without it no average is kept",
            ),
            (
                self.micro_batches > 0,
                "training.micro_batches must be 1 or more",
            ),
            (
                self.micro_batches == 1 || !self.sync_norms,
                "training.sync_norms makes one batch of all shares, training.micro_batches several of one; use one of them",
            ),
            (
                (0.0..1.0).contains(&self.plateau.factor) && self.plateau.factor > 0.0,
                "training.plateau.factor must lie between 0 and 1",
            ),
            (
                self.warmup_epochs == 0
                    || matches!(self.schedule, Schedule::Cosine | Schedule::Poly)
                        && self.warmup_epochs < self.epochs,
                "training.warmup_epochs is for schedule = \"cosine\" and \"poly\", and must be below epochs",
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
                "training.watch_every must be 1 or more",
            ),
            (
                self.unfreeze_epoch.is_none() || self.freeze_encoder_levels > 0,
                "training.unfreeze_epoch needs freeze_encoder_levels above 0",
            ),
            (
                self.checkpoint_minutes.is_finite() && self.checkpoint_minutes >= 0.0,
                "training.checkpoint_minutes must be 0 or more",
            ),
            (
                self.patches_per_epoch != Some(0),
                "training.patches_per_epoch must be 1 or more",
            ),
            (
                self.patch_size.dimensions() == 2 || self.slice_sampling.is_every(),
                "training.slice_sampling is for networks that work on slices; patches of volumes are always balanced",
            ),
            (
                self.curriculum
                    .as_ref()
                    .is_none_or(|c| c.epochs > 0 && c.easiest > 0.0 && c.easiest <= 1.0),
                "training.curriculum needs epochs of 1 or more, and easiest, the share of the first epoch, above 0 and at most 1",
            ),
        ]
    }
}

/// Which slices an epoch shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SliceSampling {
    /// Every slice with a structure, and some of those without.
    #[default]
    Every,
    /// As of volumes: `foreground_share` of them for a structure, every structure of the case as often and every
    /// slice of it, the others anywhere in the case.
    Balanced,
}

impl SliceSampling {
    fn is_every(&self) -> bool {
        *self == Self::Every
    }
}

/// A curriculum (Bengio et al., ICML 2009; paced as by Hacohen and Weinshall, ICML 2019): the first epoch is drawn
/// from the easiest patches alone, the later ones from more and more of them, evenly so, and from all after
/// `epochs`. The more of a patch is structure, the easier it is: labels decide, not losses, so that an epoch follows
/// from seed and number alone, resumed or not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CurriculumConfig {
    pub epochs: usize,
    /// The share of the first epoch.
    #[serde(default = "first_share")]
    pub easiest: f64,
}

fn first_share() -> f64 {
    0.25
}

fn is_zero(value: &usize) -> bool {
    *value == 0
}

/// How the learning rate falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// When nothing is gained, see [`PlateauConfig`].
    #[default]
    Plateau,
    /// Along half a cosine over `epochs`.
    Cosine,
    /// nnU-Net's: with what is left of `epochs`, to the power of 0.9.
    Poly,
    /// Up over the first 30 % of `epochs`, then down to next to nothing.
    OneCycle,
}

/// When the learning rate falls: after `patience` epochs without a better validation Dice, by `factor`.
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

/// When training stops: after `patience` epochs without a gain of `smallest_gain` in validation Dice.
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
