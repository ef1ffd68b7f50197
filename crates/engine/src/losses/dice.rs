//! Soft Dice loss.

use burn::tensor::Tensor;

use super::batch_view::Seen;
use super::config::DiceSettings;

/// `1 − mean over structures of (2 Σ p·t + s) / (Σ p + Σ t + s)`, sums over the batch ("batch Dice") or over
/// each sample: Milletari et al., "V-Net", 3DV 2016, without squares, as nnU-Net. The background is no
/// structure.
///
/// # Shapes
/// - `probabilities`: (batch, structure, z, y, x)
pub(super) fn soft_dice(
    seen: &Seen,
    probabilities: Tensor<5>,
    settings: &DiceSettings,
) -> Tensor<1> {
    let sums = |values: Tensor<5>| seen.per_structure(values, settings.per_sample);
    let overlap = sums(probabilities.clone() * seen.targets.clone());
    let size = sums(probabilities) + sums(seen.targets.clone());
    let dice = (overlap * 2.0 + settings.smooth) / (size + settings.smooth);
    seen.mean_over_structures(dice, settings.per_sample).neg() + 1.0
}
