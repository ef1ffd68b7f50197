//! Losses by libtorch, with their gradients by the logits; the formulas are those of `tensors::losses`.

use tch::Tensor;

use super::ffi;
use crate::error::Result;
use crate::tensors::losses::Loss;

/// The loss and its gradient by the logits times `scale`.
///
/// # Shapes
/// - `logits`, `targets`: (batch, structure, z, y, x), f32
pub(super) fn loss_and_gradient(
    loss: Loss,
    logits: &Tensor,
    targets: &Tensor,
    scale: f64,
) -> Result<(f64, Tensor)> {
    let shares = match loss {
        Loss::Bce => [1.0, 0.0],
        Loss::Dice => [0.0, 1.0],
        Loss::BceDice => [1.0, 1.0],
    };
    ffi::bce_dice(logits, targets, shares, scale, true)
}
