//! Validation scores of an epoch.

use serde::{Deserialize, Serialize};

/// What a network reaches on held-out cases, measured on the network's grid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Mean over the output maps of `dice_per_map`; none where no case holds a structure.
    pub dice: Option<f64>,
    /// Mean over cases for each output map; none where no case holds or predicts the structure.
    pub dice_per_map: Vec<Option<f64>>,
    /// Intersection over union, averaged as `dice`.
    pub iou: Option<f64>,
    /// As `dice_per_map`, and so are the others; empty in checkpoints of early versions.
    #[serde(default)]
    pub iou_per_map: Vec<Option<f64>>,
    /// Share of the predicted voxels that are right, mean over the output maps; none if nothing is defined.
    #[serde(default)]
    pub precision: Option<f64>,
    #[serde(default)]
    pub precision_per_map: Vec<Option<f64>>,
    /// Share of the reference's voxels that were found, likewise.
    #[serde(default)]
    pub recall: Option<f64>,
    #[serde(default)]
    pub recall_per_map: Vec<Option<f64>>,
    /// Share of all voxels that are right, background included, likewise; says little of small structures.
    #[serde(default)]
    pub accuracy: Option<f64>,
    #[serde(default)]
    pub accuracy_per_map: Vec<Option<f64>>,
    /// Mean over cases of the recipe's loss, each case as one batch; none where that is no number.
    pub loss: Option<f64>,
}
