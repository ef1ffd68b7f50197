//! Losses by libtorch: those of which there is a fused kernel on the CPU, and all others by Burn's formula.

use burn::tensor::Tensor as BurnTensor;
use tch::{Device, Tensor};

use super::ffi;
use super::module::wrapped;
use super::ops::{failed, native};
use crate::error::{Error, Result};
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
        Loss::Bce => Some([1.0, 0.0]),
        Loss::Dice => Some([0.0, 1.0]),
        Loss::BceDice => Some([1.0, 1.0]),
    };
    match shares {
        Some(shares) if logits.device() == Device::Cpu => {
            ffi::bce_dice(logits, targets, shares, scale)
        }
        _ => by_burn(loss, logits, targets, scale),
    }
}

/// Burn's formula; its autodiff ends at the logits.
pub(super) fn by_burn(
    loss: Loss,
    logits: &Tensor,
    targets: &Tensor,
    scale: f64,
) -> Result<(f64, Tensor)> {
    let _no_grad = tch::no_grad_guard();
    let leaf = wrapped::<5>(logits.f_detach().map_err(failed)?);
    let leaf = BurnTensor::from_inner(leaf).require_grad();
    let targets = BurnTensor::from_inner(wrapped::<5>(targets.shallow_clone()));
    let loss = loss.compute(leaf.clone(), targets);
    let value = f64::from(loss.clone().into_scalar::<f32>());
    let gradient = leaf
        .grad(&(loss * scale).backward())
        .ok_or_else(|| Error::invalid("internal: a loss without a gradient"))?;
    Ok((value, native(gradient)?))
}
