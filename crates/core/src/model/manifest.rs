//! `model.toml`: what a model is and how it came to be.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::postprocessing::Postprocessing;
use crate::recipe::{PostprocessingConfig, Recipe, TrackingConfig};
use ctseg_engine::quantisation::InputRanges;

/// Its name.
pub(super) const MANIFEST: &str = "model.toml";

/// The file of a stage's weights, beside it.
pub(crate) fn weights_file(stage: u8) -> String {
    format!("stage{stage}.safetensors")
}

/// What the names of a fold's tensors begin with there.
pub(super) fn fold_prefix(fold: usize) -> String {
    format!("fold_{fold}.")
}

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
    /// [`DatasetContent::sha256`](crate::dataset::content::DatasetContent::sha256) of the training cases; models of
    /// early versions have one of names and file sizes.
    pub data_fingerprint: String,
    pub seed: u64,
    pub engine: String,
    /// For stage 2: the checksum of the stage-1 weights whose regions it was trained on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage1_sha256: Option<String>,
    /// What the images show by `dataset.json`, where it is not CT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    pub folds: Vec<FoldManifest>,
    /// SHA-256 of the training cases' images by id, see [`image_sha256`](crate::dataset::content::image_sha256); none in
    /// imported models and those of early versions.
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
    /// Of these weights; none where it is undefined or not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_dice: Option<f64>,
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
        let comparable = |manifest: &Self| Self {
            folds: Vec::new(),
            recipe: manifest.training_recipe(),
            ..manifest.clone()
        };
        comparable(self) == comparable(other)
    }

    /// Whether the other's recipe gives the same networks from the same data.
    pub(super) fn has_recipe_of(&self, other: &Self) -> bool {
        self.training_recipe() == other.training_recipe()
    }

    /// The recipe without what changes no network.
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
