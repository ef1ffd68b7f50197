//! Generalised Dice loss.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::batch_view::BatchView;
use super::kind::{LossKind, wrong_smooth};

/// Settings of the generalised Dice loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GeneralisedDiceSettings {
    pub smooth: f64,
    pub per_sample: bool,
}

impl Default for GeneralisedDiceSettings {
    fn default() -> Self {
        Self {
            smooth: 1e-5,
            per_sample: false,
        }
    }
}

/// `1 − (2 Σ w Σ p·t + s) / (Σ w (Σ p + Σ t) + s)` over structures, with weights `w = 1 / (Σ t)²`, so that small
/// structures count as much as large ones: Sudre et al., "Generalised Dice overlap as a deep learning loss function
/// for highly unbalanced segmentations", DLMIA 2017. An absent structure gets the weight of the smallest present one
/// (MONAI's `GeneralizedDiceLoss`).
fn generalised_dice(view: &BatchView, settings: &GeneralisedDiceSettings) -> Tensor<1> {
    let sums = |values: Tensor<5>| view.per_structure(values, settings.per_sample);
    let probabilities = view.probabilities();
    let overlap = sums(probabilities.clone() * view.targets.clone());
    let there = sums(view.targets.clone());
    let size = sums(probabilities) + there.clone();
    let absent = there.clone().lower_equal_elem(0.0);
    let weights = there.powf_scalar(-2.0).mask_fill(absent.clone(), 0.0);
    let heaviest = weights.clone().max_dim(1);
    let weights = weights + absent.float() * heaviest;
    let over = (overlap * weights.clone()).sum_dim(1) * 2.0 + settings.smooth;
    let under = (size * weights).sum_dim(1) + settings.smooth;
    view.mean_over_rows(over / under, settings.per_sample).neg() + 1.0
}

pub struct GeneralisedDice;

impl LossKind for GeneralisedDice {
    type Settings = GeneralisedDiceSettings;

    fn compute(
        settings: &GeneralisedDiceSettings,
        view: &BatchView,
        _: Option<Tensor<5>>,
    ) -> Tensor<1> {
        generalised_dice(view, settings)
    }

    fn wrong_value(settings: &GeneralisedDiceSettings) -> Option<&'static str> {
        wrong_smooth(settings.smooth)
    }
}
