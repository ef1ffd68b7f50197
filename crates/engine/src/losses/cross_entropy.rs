//! Cross-entropy on logits.

use burn::tensor::Tensor;
use burn::tensor::activation::log_sigmoid;

use super::batch_view::BatchView;
use super::outputs::Outputs;

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
pub(super) fn cross_entropy(view: &BatchView) -> Tensor<1> {
    view.mean_over_voxels(of_voxels(view))
}
