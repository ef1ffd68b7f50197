//! Tversky loss and its focal form.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::batch_view::BatchView;
use super::kind::{LossKind, is_weight, wrong_smooth};

/// Settings of the Tversky loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TverskySettings {
    /// Weight of false positives.
    pub alpha: f64,
    /// Weight of false negatives.
    pub beta: f64,
    pub smooth: f64,
    pub per_sample: bool,
}

impl Default for TverskySettings {
    fn default() -> Self {
        Self {
            alpha: 0.3,
            beta: 0.7,
            smooth: 1.0,
            per_sample: false,
        }
    }
}

/// Settings of the focal Tversky loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FocalTverskySettings {
    pub alpha: f64,
    pub beta: f64,
    /// Focusing parameter: higher values increase the weight of structures with poor overlap.
    pub gamma: f64,
    pub smooth: f64,
    pub per_sample: bool,
}

impl Default for FocalTverskySettings {
    fn default() -> Self {
        Self {
            alpha: 0.3,
            beta: 0.7,
            gamma: 4.0 / 3.0,
            smooth: 1.0,
            per_sample: false,
        }
    }
}

impl FocalTverskySettings {
    fn tversky(&self) -> TverskySettings {
        TverskySettings {
            alpha: self.alpha,
            beta: self.beta,
            smooth: self.smooth,
            per_sample: self.per_sample,
        }
    }
}

/// Lower bound of 1 − index: a root of 0 has no gradient.
const SMALLEST: f64 = 1e-7;

/// Per structure `(TP + s) / (TP + α FP + β FN + s)`: Salehi et al., "Tversky loss function for image segmentation
/// using 3D fully convolutional deep networks", MLMI 2017. α = β = 1/2 is Dice.
fn index(view: &BatchView, settings: &TverskySettings) -> Tensor<2> {
    let sums = |values: Tensor<5>| view.per_structure(values, settings.per_sample);
    let probabilities = view.probabilities();
    let found = sums(probabilities.clone() * view.targets.clone());
    let (predicted, there) = (sums(probabilities), sums(view.targets.clone()));
    let wrong = (predicted - found.clone()) * settings.alpha;
    let missed = (there - found.clone()) * settings.beta;
    (found.clone() + settings.smooth) / (found + wrong + missed + settings.smooth)
}

/// 1 − the mean index over structures.
fn tversky(view: &BatchView, settings: &TverskySettings) -> Tensor<1> {
    let found = view.mean_over_structures(index(view, settings), settings.per_sample);
    found.neg() + 1.0
}

/// The mean of `(1 − index)^(1/γ)`: Abraham and Khan, "A novel focal Tversky loss function with improved
/// attention U-Net for lesion segmentation", ISBI 2019.
fn focal_tversky(view: &BatchView, settings: &FocalTverskySettings) -> Tensor<1> {
    let tversky = settings.tversky();
    let missing = index(view, &tversky).neg() + 1.0;
    let missing = missing
        .clamp_min(SMALLEST)
        .powf_scalar(1.0 / settings.gamma);
    view.mean_over_structures(missing, tversky.per_sample)
}

pub struct Tversky;

impl LossKind for Tversky {
    type Settings = TverskySettings;

    fn compute(settings: &TverskySettings, view: &BatchView, _: Option<Tensor<5>>) -> Tensor<1> {
        tversky(view, settings)
    }

    fn wrong_value(settings: &TverskySettings) -> Option<&'static str> {
        let TverskySettings { alpha, beta, .. } = *settings;
        let usable = is_weight(alpha) && is_weight(beta) && alpha + beta > 0.0;
        wrong_smooth(settings.smooth)
            .or((!usable)
                .then_some("training.loss.alpha and beta must be 0 or more, and not both 0"))
    }
}

pub struct FocalTversky;

impl LossKind for FocalTversky {
    type Settings = FocalTverskySettings;

    fn compute(
        settings: &FocalTverskySettings,
        view: &BatchView,
        _: Option<Tensor<5>>,
    ) -> Tensor<1> {
        focal_tversky(view, settings)
    }

    fn wrong_value(settings: &FocalTverskySettings) -> Option<&'static str> {
        Tversky::wrong_value(&settings.tversky()).or((!(1.0..=3.0).contains(&settings.gamma))
            .then_some("training.loss.gamma must lie in [1, 3]"))
    }
}
