//! Soft Dice loss.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::batch_view::BatchView;
use super::kind::{LossKind, WeightedSum, wrong_smooth};

/// Settings of the Dice loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiceSettings {
    /// Added to numerator and denominator, so that a structure that is neither present nor predicted costs 0 instead
    /// of 0/0.
    pub smooth: f64,
    /// Dice per sample instead of over the whole batch.
    pub per_sample: bool,
}

impl Default for DiceSettings {
    fn default() -> Self {
        Self {
            smooth: 1.0,
            per_sample: false,
        }
    }
}

/// `1 − mean over structures of (2 Σ p·t + s) / (Σ p + Σ t + s)`, with sums over the batch ("batch Dice") or over
/// each sample: Milletari et al., "V-Net", 3DV 2016, without squares, as in nnU-Net. The background is not included.
///
/// # Shapes
/// - `probabilities`: (batch, structure, z, y, x)
pub(super) fn soft_dice(
    view: &BatchView,
    probabilities: Tensor<5>,
    settings: &DiceSettings,
) -> Tensor<1> {
    let sums = |values: Tensor<5>| view.per_structure(values, settings.per_sample);
    let overlap = sums(probabilities.clone() * view.targets.clone());
    let size = sums(probabilities) + sums(view.targets.clone());
    let dice = (overlap * 2.0 + settings.smooth) / (size + settings.smooth);
    view.mean_over_structures(dice, settings.per_sample).neg() + 1.0
}

pub struct Dice;

impl LossKind for Dice {
    type Settings = DiceSettings;

    fn compute(settings: &DiceSettings, view: &BatchView, _: Option<Tensor<5>>) -> Tensor<1> {
        soft_dice(view, view.probabilities(), settings)
    }

    fn wrong_value(settings: &DiceSettings) -> Option<&'static str> {
        wrong_smooth(settings.smooth)
    }

    fn as_sum(settings: &DiceSettings) -> Option<WeightedSum> {
        Some(WeightedSum {
            cross_entropy_weight: 0.0,
            dice_weight: 1.0,
            smooth: settings.smooth,
            per_sample: settings.per_sample,
        })
    }
}
