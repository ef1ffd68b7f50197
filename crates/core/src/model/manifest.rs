//! `model.toml`: everything about a model except its weights.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::postprocessing::Postprocessing;
use crate::recipe::{PostprocessingConfig, Recipe, TrackingConfig};
use ctseg_engine::quantisation::InputRanges;

/// File name of the manifest.
pub(super) const MANIFEST: &str = "model.toml";

/// File name of a stage's weights.
pub(crate) fn weights_file(stage: u8) -> String {
    format!("stage{stage}.safetensors")
}

/// Prefix of the names of a fold's tensors.
pub(super) fn fold_prefix(fold: usize) -> String {
    format!("fold_{fold}.")
}

/// The content of `model.toml`.
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
    /// Post-processing of label maps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postprocessing: Option<Postprocessing>,
}

/// A stage and how it was trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageManifest {
    pub dataset: String,
    /// [`DatasetContent::sha256`](crate::dataset::content::DatasetContent::sha256) of the training cases; in models
    /// of early versions, a hash of names and file sizes.
    pub data_fingerprint: String,
    pub seed: u64,
    pub engine: String,
    /// For stage 2: the checksum of the stage-1 weights that it was trained with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage1_sha256: Option<String>,
    /// The channel name from `dataset.json`, if it is not CT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    pub folds: Vec<FoldManifest>,
    /// SHA-256 of the training cases' images by id, see [`image_sha256`](crate::dataset::content::image_sha256);
    /// empty in imported models and those of early versions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub image_sha256: BTreeMap<String, String>,
    pub recipe: Recipe,
}

/// One network of a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FoldManifest {
    pub fold: usize,
    /// The epoch whose weights these are, counted from 1.
    pub epoch: usize,
    /// Validation Dice of these weights; `None` if undefined or unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_dice: Option<f64>,
    /// Cases held out from training.
    pub held_out: Vec<String>,
    /// Training cases.
    pub trained_on: Vec<String>,
    /// Input ranges of its convolutions for int8 inference, see [`ctseg_engine::quantisation`].
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
    /// Whether the other's folds belong to the same training: everything is equal except the folds and settings that
    /// do not affect the networks.
    pub(super) fn is_same_training(&self, other: &Self) -> bool {
        let comparable = |manifest: &Self| Self {
            folds: Vec::new(),
            recipe: manifest.training_recipe(),
            ..manifest.clone()
        };
        comparable(self) == comparable(other)
    }

    /// Whether the other's recipe trains the same networks from the same data.
    pub(super) fn has_same_recipe(&self, other: &Self) -> bool {
        self.training_recipe() == other.training_recipe()
    }

    /// The recipe without settings that do not affect the networks.
    fn training_recipe(&self) -> Recipe {
        Recipe {
            train_folds: None,
            out_of_fold: true,
            postprocessing: PostprocessingConfig::default(),
            tracking: TrackingConfig::default(),
            ..self.recipe.clone()
        }
    }
}
