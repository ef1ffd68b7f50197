//! Tversky loss and its focal form.

use burn::tensor::Tensor;

use super::batch_view::BatchView;
use super::config::{FocalTverskySettings, TverskySettings};

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
pub(super) fn tversky(view: &BatchView, settings: &TverskySettings) -> Tensor<1> {
    let found = view.mean_over_structures(index(view, settings), settings.per_sample);
    found.neg() + 1.0
}

/// The mean of `(1 − index)^(1/γ)`: Abraham and Khan, "A novel focal Tversky loss function with improved
/// attention U-Net for lesion segmentation", ISBI 2019.
pub(super) fn focal_tversky(view: &BatchView, settings: &FocalTverskySettings) -> Tensor<1> {
    let tversky = settings.tversky();
    let missing = index(view, &tversky).neg() + 1.0;
    let missing = missing
        .clamp_min(SMALLEST)
        .powf_scalar(1.0 / settings.gamma);
    view.mean_over_structures(missing, tversky.per_sample)
}
