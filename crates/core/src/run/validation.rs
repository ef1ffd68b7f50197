//! Validation scores of an epoch.

use serde::{Deserialize, Serialize};

/// Scores of a network on validation cases, on the network's grid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Mean over the output maps of `dice_per_map`; none if no case contains a structure.
    pub dice: Option<f64>,
    /// Mean over cases for each output map; none if no case contains or predicts the structure.
    pub dice_per_map: Vec<Option<f64>>,
    /// Intersection over union, averaged like `dice`.
    pub iou: Option<f64>,
    /// Like `dice_per_map`, as are the others; empty in checkpoints of early versions.
    #[serde(default)]
    pub iou_per_map: Vec<Option<f64>>,
    /// Share of predicted voxels that are correct, mean over the output maps; none if undefined for all.
    #[serde(default)]
    pub precision: Option<f64>,
    #[serde(default)]
    pub precision_per_map: Vec<Option<f64>>,
    /// Share of reference voxels that are predicted, likewise.
    #[serde(default)]
    pub recall: Option<f64>,
    #[serde(default)]
    pub recall_per_map: Vec<Option<f64>>,
    /// Share of all voxels that are correct, background included, likewise; uninformative for small structures.
    #[serde(default)]
    pub accuracy: Option<f64>,
    #[serde(default)]
    pub accuracy_per_map: Vec<Option<f64>>,
    /// Mean over cases of the recipe's loss, each case as one batch; none if not finite.
    pub loss: Option<f64>,
}
