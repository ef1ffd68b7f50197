//! Focal loss.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::batch_view::BatchView;
use super::cross_entropy;
use super::kind::{LossKind, is_weight};
use super::outputs::Outputs;

/// Settings of the focal loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FocalSettings {
    /// Focusing parameter: higher values reduce the weight of well-classified voxels; 0 is cross-entropy.
    pub gamma: f64,
    /// Weight of structure voxels; others have 1 − alpha. Equal weights by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
}

impl Default for FocalSettings {
    fn default() -> Self {
        Self {
            gamma: 2.0,
            alpha: None,
        }
    }
}

/// Lower bound of 1 − q: a power of 0 has no gradient.
const SMALLEST: f64 = 1e-7;

/// Mean over voxels of `α · (1 − q)^γ · (−ln q)`, q the probability of the true class: Lin et al., "Focal Loss for
/// Dense Object Detection", ICCV 2017. Summed over exclusive classes, as in cross-entropy (MONAI's `FocalLoss` takes
/// the mean).
fn focal(view: &BatchView, settings: &FocalSettings) -> Tensor<1> {
    let cost = cross_entropy::of_voxels(view);
    let wrong = (cost.clone().neg().exp().neg() + 1.0).clamp_min(SMALLEST);
    let mut focal = match settings.gamma {
        0.0 => cost,
        gamma => wrong.powf_scalar(gamma) * cost,
    };
    if let Some(alpha) = settings.alpha {
        let there = match view.outputs() {
            Outputs::Independent => view.targets.clone(),
            Outputs::Exclusive => view.targets.clone().sum_dim(1),
        };
        focal = focal * (there * (2.0 * alpha - 1.0) + (1.0 - alpha));
    }
    view.mean_over_voxels(focal)
}

pub struct Focal;

impl LossKind for Focal {
    type Settings = FocalSettings;

    fn compute(settings: &FocalSettings, view: &BatchView, _: Option<Tensor<5>>) -> Tensor<1> {
        focal(view, settings)
    }

    fn wrong_value(settings: &FocalSettings) -> Option<&'static str> {
        if !is_weight(settings.gamma) {
            return Some("training.loss.gamma must be 0 or more");
        }
        settings
            .alpha
            .is_some_and(|alpha| !(0.0..=1.0).contains(&alpha))
            .then_some("training.loss.alpha must lie in [0, 1]")
    }
}
