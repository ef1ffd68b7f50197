//! Focal loss.

use burn::tensor::Tensor;

use super::batch_view::BatchView;
use super::config::FocalSettings;
use super::cross_entropy;
use super::outputs::Outputs;

/// Lower bound of 1 − q: a power of 0 has no gradient.
const SMALLEST: f64 = 1e-7;

/// Mean over voxels of `α · (1 − q)^γ · (−ln q)`, q the probability of the true class: Lin et al., "Focal Loss for
/// Dense Object Detection", ICCV 2017. Summed over exclusive classes, as in cross-entropy (MONAI's `FocalLoss` takes
/// the mean).
pub(super) fn focal(view: &BatchView, settings: &FocalSettings) -> Tensor<1> {
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
