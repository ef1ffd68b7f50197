//! Focal loss.

use burn::tensor::Tensor;

use super::batch_view::Seen;
use super::config::FocalSettings;
use super::cross_entropy;
use super::outputs::Outputs;

/// Below this a probability of being wrong is taken for it: a power of 0 has no slope.
const SMALLEST: f64 = 1e-7;

/// Mean over voxels of `α · (1 − q)^γ · (−ln q)`, q the probability given to what is there: Lin et al.,
/// "Focal Loss for Dense Object Detection", ICCV 2017. Of exclusive classes it is summed over them, as
/// cross-entropy is (MONAI's `FocalLoss` takes the mean over them).
pub(super) fn focal(seen: &Seen, settings: &FocalSettings) -> Tensor<1> {
    let cost = cross_entropy::of_voxels(seen);
    let wrong = (cost.clone().neg().exp().neg() + 1.0).clamp_min(SMALLEST);
    let mut focal = match settings.gamma {
        0.0 => cost,
        gamma => wrong.powf_scalar(gamma) * cost,
    };
    if let Some(alpha) = settings.alpha {
        let there = match seen.outputs() {
            Outputs::Independent => seen.targets.clone(),
            Outputs::Exclusive => seen.targets.clone().sum_dim(1),
        };
        focal = focal * (there * (2.0 * alpha - 1.0) + (1.0 - alpha));
    }
    seen.mean_over_voxels(focal)
}
