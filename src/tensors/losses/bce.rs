//! Binary cross-entropy on logits.

use burn::tensor::Tensor;

/// Mean over all elements of `max(x, 0) − x·t + ln(1 + e^−|x|)`, the form that cannot overflow
/// (as PyTorch's `binary_cross_entropy_with_logits`).
///
/// # Shapes
/// - `logits`, `targets`: (batch, structure, z, y, x)
pub(super) fn binary_cross_entropy(logits: Tensor<5>, targets: Tensor<5>) -> Tensor<1> {
    let softplus = logits.clone().abs().neg().exp().log1p();
    (logits.clone().clamp_min(0.0) - logits * targets + softplus).mean()
}
