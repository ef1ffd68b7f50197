//! Generalised Dice loss.

use burn::tensor::Tensor;

use super::batch_view::BatchView;
use super::config::GeneralisedDiceSettings;

/// `1 − (2 Σ w Σ p·t + s) / (Σ w (Σ p + Σ t) + s)` over structures, with weights `w = 1 / (Σ t)²`, so that small
/// structures count as much as large ones: Sudre et al., "Generalised Dice overlap as a deep learning loss function
/// for highly unbalanced segmentations", DLMIA 2017. An absent structure gets the weight of the smallest present one
/// (MONAI's `GeneralizedDiceLoss`).
pub(super) fn generalised_dice(view: &BatchView, settings: &GeneralisedDiceSettings) -> Tensor<1> {
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
