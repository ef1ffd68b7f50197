//! `model.toml`: what a model is and how it came to be.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::postprocessing::Postprocessing;
use crate::recipe::{PostprocessingConfig, Recipe, TrackingConfig};
use ctseg_engine::quantisation::InputRanges;

/// `model.toml`: everything about a model but its weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: u32,
    pub ctseg_version: String,
    /// Structure name by label value.
    pub structures: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage1: Option<StageManifest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage2: Option<StageManifest>,
    /// How label maps are cleaned up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postprocessing: Option<Postprocessing>,
}

/// How a stage's weights came to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageManifest {
    pub dataset: String,
    /// SHA-256 over the training cases' names and the sizes of their files.
    pub data_fingerprint: String,
    pub seed: u64,
    pub engine: String,
    /// For stage 2: the checksum of the stage-1 weights whose regions it was trained on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage1_sha256: Option<String>,
    pub folds: Vec<FoldManifest>,
    pub recipe: Recipe,
}

/// One network of a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FoldManifest {
    pub fold: usize,
    /// The epoch whose weights these are, counted from 1.
    pub epoch: usize,
    /// Of these weights.
    pub validation_dice: f64,
    /// Cases that this network was not trained on.
    pub held_out: Vec<String>,
    /// Cases that it was trained on.
    pub trained_on: Vec<String>,
    /// What its convolutions take in, for 8-bit integers, see [`ctseg_engine::quantisation`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_ranges: Option<InputRanges>,
}

impl Manifest {
    pub(super) fn stage_mut(&mut self, stage: u8) -> &mut Option<StageManifest> {
        match stage {
            1 => &mut self.stage1,
            _ => &mut self.stage2,
        }
    }
}

impl StageManifest {
    /// Whether the other's folds could have come from the same training: all is equal but which folds, and what
    /// is done when they are trained.
    pub(super) fn trained_like(&self, other: &Self) -> bool {
        let comparable = |manifest: &Self| {
            let mut manifest = manifest.clone();
            manifest.folds.clear();
            manifest.recipe.train_folds = None;
            manifest.recipe.out_of_fold = true;
            manifest.recipe.postprocessing = PostprocessingConfig::default();
            manifest.recipe.tracking = TrackingConfig::default();
            manifest
        };
        comparable(self) == comparable(other)
    }
}
