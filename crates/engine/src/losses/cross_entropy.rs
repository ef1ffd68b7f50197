//! Cross-entropy on logits.

use burn::tensor::Tensor;
use burn::tensor::activation::log_sigmoid;
use serde::{Deserialize, Serialize};

use super::batch_view::BatchView;
use super::kind::{LossKind, WeightedSum};
use super::outputs::Outputs;

pub(super) const NOT_EXCLUSIVE: &str = "training.loss: bce and bce_dice are for outputs = \"independent\"; use ce or ce_dice for exclusive classes";
pub(super) const NOT_INDEPENDENT: &str = "training.loss: ce and ce_dice are for outputs = \"exclusive\"; use bce or bce_dice for independent structures";

/// For a loss without settings.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NoSettings {}

/// Cross-entropy per voxel. Independent structures: `ln(1 + e^x) − x·t` (PyTorch's
/// `binary_cross_entropy_with_logits`), (batch, structure, z, y, x). Exclusive classes: the negative log-probability
/// of the true class (PyTorch's `cross_entropy`), (batch, 1, z, y, x).
pub(super) fn of_voxels(view: &BatchView) -> Tensor<5> {
    match view.outputs() {
        Outputs::Independent => {
            let softplus = log_sigmoid(view.logits.clone().neg()).neg();
            softplus - view.logits.clone() * view.targets.clone()
        }
        Outputs::Exclusive => of_classes(view, view.softmax().log_sum),
    }
}

/// Same for exclusive classes whose softmax is already computed.
pub(super) fn of_classes(view: &BatchView, log_sum: Tensor<5>) -> Tensor<5> {
    log_sum - (view.logits.clone() * view.targets.clone()).sum_dim(1)
}

/// The mean over all unmasked voxels.
fn cross_entropy(view: &BatchView) -> Tensor<1> {
    view.mean_over_voxels(of_voxels(view))
}

/// Binary cross-entropy, for independent structures.
pub struct Bce;

impl LossKind for Bce {
    type Settings = NoSettings;

    fn compute(_: &NoSettings, view: &BatchView, _: Option<Tensor<5>>) -> Tensor<1> {
        cross_entropy(view)
    }

    fn wrong_outputs(_: &NoSettings, outputs: Outputs) -> Option<&'static str> {
        (outputs == Outputs::Exclusive).then_some(NOT_EXCLUSIVE)
    }

    fn as_sum(_: &NoSettings) -> Option<WeightedSum> {
        Some(WeightedSum {
            cross_entropy_weight: 1.0,
            dice_weight: 0.0,
            smooth: 1.0,
            per_sample: false,
        })
    }
}

/// Cross-entropy, for exclusive classes.
pub struct Ce;

impl LossKind for Ce {
    type Settings = NoSettings;

    fn compute(_: &NoSettings, view: &BatchView, _: Option<Tensor<5>>) -> Tensor<1> {
        cross_entropy(view)
    }

    fn wrong_outputs(_: &NoSettings, outputs: Outputs) -> Option<&'static str> {
        (outputs == Outputs::Independent).then_some(NOT_INDEPENDENT)
    }
}
