//! What a kind of loss provides.

use std::fmt::Debug;

use burn::tensor::Tensor;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::batch_view::BatchView;
use super::outputs::Outputs;

/// A kind of loss: its settings, and its formula.
pub trait LossKind {
    /// As under `[training.loss]` in a recipe, besides `kind`.
    type Settings: Debug + Clone + PartialEq + Default + Serialize + DeserializeOwned;

    /// Whether the loss needs signed distances to the structures' surfaces.
    const NEEDS_DISTANCES: bool = false;

    /// The loss of a batch. `distances` as in [`Loss::compute`](super::Loss::compute).
    fn compute(
        settings: &Self::Settings,
        view: &BatchView,
        distances: Option<Tensor<5>>,
    ) -> Tensor<1>;

    /// Why the loss is not for such outputs, if so.
    fn wrong_outputs(_settings: &Self::Settings, _outputs: Outputs) -> Option<&'static str> {
        None
    }

    /// The first invalid setting, if any.
    fn wrong_value(_settings: &Self::Settings) -> Option<&'static str> {
        None
    }

    /// The loss of independent structures as a sum of cross-entropy and Dice, if it is one: engines and validation
    /// compute it in a single pass over the voxels.
    fn as_sum(_settings: &Self::Settings) -> Option<WeightedSum> {
        None
    }
}

/// Cross-entropy plus Dice loss, by weights; one of them may be 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WeightedSum {
    pub cross_entropy_weight: f64,
    pub dice_weight: f64,
    /// See [`DiceSettings::smooth`](super::DiceSettings::smooth).
    pub smooth: f64,
    /// Dice per sample instead of over the whole batch.
    pub per_sample: bool,
}

/// Whether `value` may be a weight.
pub fn is_weight(value: f64) -> bool {
    value.is_finite() && value >= 0.0
}

pub fn wrong_smooth(smooth: f64) -> Option<&'static str> {
    (!(smooth.is_finite() && smooth > 0.0)).then_some("training.loss.smooth must be above 0")
}
