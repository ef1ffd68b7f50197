//! Cross-entropy plus the Dice loss.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::batch_view::BatchView;
use super::cross_entropy;
use super::cross_entropy::{NOT_EXCLUSIVE, NOT_INDEPENDENT};
use super::dice::{DiceSettings, soft_dice};
use super::kind::{LossKind, WeightedSum, is_weight, wrong_smooth};
use super::outputs::Outputs;

/// Settings of cross-entropy plus Dice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SumSettings {
    pub smooth: f64,
    pub per_sample: bool,
    /// Weight of the cross-entropy.
    pub cross_entropy_weight: f64,
    /// Weight of the Dice loss.
    pub dice_weight: f64,
}

impl Default for SumSettings {
    fn default() -> Self {
        Self {
            smooth: 1.0,
            per_sample: false,
            cross_entropy_weight: 1.0,
            dice_weight: 1.0,
        }
    }
}

impl SumSettings {
    fn loss(&self, view: &BatchView) -> Tensor<1> {
        let (costs, probabilities) = match view.outputs() {
            Outputs::Independent => (cross_entropy::of_voxels(view), view.probabilities()),
            Outputs::Exclusive => {
                let softmax = view.softmax();
                (
                    cross_entropy::of_classes(view, softmax.log_sum),
                    softmax.probabilities,
                )
            }
        };
        let dice = DiceSettings {
            smooth: self.smooth,
            per_sample: self.per_sample,
        };
        view.mean_over_voxels(costs) * self.cross_entropy_weight
            + soft_dice(view, probabilities, &dice) * self.dice_weight
    }

    fn wrong_value(&self) -> Option<&'static str> {
        let weights = [self.dice_weight, self.cross_entropy_weight];
        let usable = weights.into_iter().all(is_weight) && weights.iter().sum::<f64>() > 0.0;
        wrong_smooth(self.smooth).or((!usable).then_some(
            "training.loss.cross_entropy_weight and dice_weight must be 0 or more, and not both 0",
        ))
    }
}

/// The sum of both, for independent structures.
pub struct BceDice;

impl LossKind for BceDice {
    type Settings = SumSettings;

    fn compute(settings: &SumSettings, view: &BatchView, _: Option<Tensor<5>>) -> Tensor<1> {
        settings.loss(view)
    }

    fn wrong_outputs(_: &SumSettings, outputs: Outputs) -> Option<&'static str> {
        (outputs == Outputs::Exclusive).then_some(NOT_EXCLUSIVE)
    }

    fn wrong_value(settings: &SumSettings) -> Option<&'static str> {
        settings.wrong_value()
    }

    fn as_sum(settings: &SumSettings) -> Option<WeightedSum> {
        Some(WeightedSum {
            cross_entropy_weight: settings.cross_entropy_weight,
            dice_weight: settings.dice_weight,
            smooth: settings.smooth,
            per_sample: settings.per_sample,
        })
    }
}

/// The sum of both, for exclusive classes.
pub struct CeDice;

impl LossKind for CeDice {
    type Settings = SumSettings;

    fn compute(settings: &SumSettings, view: &BatchView, _: Option<Tensor<5>>) -> Tensor<1> {
        settings.loss(view)
    }

    fn wrong_outputs(_: &SumSettings, outputs: Outputs) -> Option<&'static str> {
        (outputs == Outputs::Independent).then_some(NOT_INDEPENDENT)
    }

    fn wrong_value(settings: &SumSettings) -> Option<&'static str> {
        settings.wrong_value()
    }
}
