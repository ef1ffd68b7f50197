//! Soft Dice loss on logits.

use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;

/// Added to numerator and denominator, so that a structure that is neither there nor predicted costs
/// nothing instead of 0/0.
const SMOOTH: f64 = 1.0;

/// `1 − mean over structures of (2 Σ p·t + 1) / (Σ p + Σ t + 1)`, sums over batch and pixels
/// ("batch Dice": Milletari et al., "V-Net", 3DV 2016, without squares, as nnU-Net).
///
/// # Shapes
/// - `logits`, `targets`: (batch, structure, z, y, x)
pub(super) fn soft_dice(logits: Tensor<5>, targets: Tensor<5>) -> Tensor<1> {
    let [_, structures, _, _, _] = logits.dims();
    let per_structure = |tensor: Tensor<5>| -> Tensor<1> {
        tensor
            .sum_dim(0)
            .sum_dim(2)
            .sum_dim(3)
            .sum_dim(4)
            .reshape([structures])
    };
    let probabilities = sigmoid(logits);
    let overlap = per_structure(probabilities.clone() * targets.clone());
    let size = per_structure(probabilities) + per_structure(targets);
    let dice = (overlap * 2.0 + SMOOTH) / (size + SMOOTH);
    dice.mean().neg() + 1.0
}
