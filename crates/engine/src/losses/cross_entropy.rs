//! Cross-entropy on logits.

use burn::tensor::Tensor;
use burn::tensor::activation::log_sigmoid;

use super::batch_view::Seen;
use super::outputs::Outputs;

/// What each voxel costs: `ln(1 + e^x) − x·t` of independent structures (PyTorch's
/// `binary_cross_entropy_with_logits`), (batch, structure, z, y, x); of exclusive classes the logarithm of
/// the right one's probability, negative (PyTorch's `cross_entropy`), (batch, 1, z, y, x).
pub(super) fn of_voxels(seen: &Seen) -> Tensor<5> {
    match seen.outputs() {
        Outputs::Independent => {
            let softplus = log_sigmoid(seen.logits.clone().neg()).neg();
            softplus - seen.logits.clone() * seen.targets.clone()
        }
        Outputs::Exclusive => of_classes(seen, seen.softmax().log_sum),
    }
}

/// The same of exclusive classes whose softmax is there already.
pub(super) fn of_classes(seen: &Seen, log_sum: Tensor<5>) -> Tensor<5> {
    log_sum - (seen.logits.clone() * seen.targets.clone()).sum_dim(1)
}

/// The mean over all voxels that count.
pub(super) fn cross_entropy(seen: &Seen) -> Tensor<1> {
    seen.mean_over_voxels(of_voxels(seen))
}
