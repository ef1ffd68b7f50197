//! Soft Dice loss.

use burn::tensor::Tensor;

use super::batch_view::BatchView;
use super::config::DiceSettings;

/// `1 − mean over structures of (2 Σ p·t + s) / (Σ p + Σ t + s)`, with sums over the batch ("batch Dice") or over
/// each sample: Milletari et al., "V-Net", 3DV 2016, without squares, as in nnU-Net. The background is not included.
///
/// # Shapes
/// - `probabilities`: (batch, structure, z, y, x)
pub(super) fn soft_dice(
    view: &BatchView,
    probabilities: Tensor<5>,
    settings: &DiceSettings,
) -> Tensor<1> {
    let sums = |values: Tensor<5>| view.per_structure(values, settings.per_sample);
    let overlap = sums(probabilities.clone() * view.targets.clone());
    let size = sums(probabilities) + sums(view.targets.clone());
    let dice = (overlap * 2.0 + settings.smooth) / (size + settings.smooth);
    view.mean_over_structures(dice, settings.per_sample).neg() + 1.0
}
