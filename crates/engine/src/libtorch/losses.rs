//! Losses on libtorch, with gradients with respect to the logits.

use burn::tensor::Tensor as BurnTensor;
use burn_tch::{LibTorch, TchTensor};
use tch::Tensor;

use super::ffi;
use super::ops::{native, torch_error};
use crate::distributed::process_group::ProcessGroup;
use crate::losses::Loss;
use ctseg_base::{Error, Result};

/// [`WeightedSum::smooth`](crate::losses::WeightedSum::smooth) of the fused kernel.
const DICE_SMOOTH: f64 = 1.0;

/// The loss of the batch that `group` shares, and its gradient with respect to the logits times `scale`. Binary
/// cross-entropy and Dice of independent structures use our own two-pass kernel; other losses run the formulas of
/// `crate::losses` with the logits as a leaf, so that the network's graph is not part of theirs.
///
/// # Shapes
/// - `logits`, `targets`, `distances`: (batch, structure, z, y, x), f32
pub(super) fn loss_and_gradient(
    loss: &Loss,
    logits: &Tensor,
    targets: &Tensor,
    distances: Option<&Tensor>,
    scale: f64,
    group: &ProcessGroup,
) -> Result<(f64, Tensor)> {
    if let Some(shares) = fused_shares(loss) {
        return ffi::bce_dice(logits, targets, shares, scale, true, group);
    }
    // Cloned, so that Burn does not compute in place in memory that it does not own.
    let leaf = burn(logits)?.require_grad();
    let targets = burn(targets)?;
    let distances = distances.map(burn).transpose()?;
    let value =
        loss.compute_distributed(leaf.clone(), targets.clone(), distances.clone(), group)?;
    let number = f64::from(value.clone().into_scalar::<f32>());
    let gradient = leaf.grad(&(value * scale).backward()).ok_or_else(|| {
        Error::internal(format!(
            "loss {} has no gradient with respect to the logits",
            loss.name()
        ))
    })?;
    Ok((number, native(gradient)?))
}

/// Weights of cross-entropy and Dice, if the fused kernel supports the loss.
fn fused_shares(loss: &Loss) -> Option<[f64; 2]> {
    let sum = loss.as_sum().filter(|_| !loss.ignore_nan)?;
    let plain = sum.smooth == DICE_SMOOTH && !sum.per_sample;
    plain.then_some([sum.cross_entropy_weight, sum.dice_weight])
}

/// Wraps the same memory as a Burn tensor for its autodiff; libtorch's graph ends here.
fn burn(tensor: &Tensor) -> Result<BurnTensor<5>> {
    let tensor = tensor.f_detach().map_err(torch_error)?;
    let primitive = TchTensor::new(tensor);
    Ok(BurnTensor::from_inner(
        BurnTensor::from_primitive::<LibTorch>(primitive),
    ))
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::distributed::threads::in_process_group;

    #[test]
    fn shares_of_a_batch_cost_what_the_whole_batch_does_in_the_kernel_too() {
        tch::manual_seed(3);
        let logits = Tensor::randn([5, 3, 2, 7, 9], (Kind::Float, Device::Cpu)) * 3.0;
        let targets = Tensor::rand([5, 3, 2, 7, 9], (Kind::Float, Device::Cpu)).gt(0.7);
        let targets = targets.to_kind(Kind::Float);
        let list = |tensor: &Tensor| Vec::<f32>::try_from(&tensor.reshape([-1])).unwrap();
        // libtorch tensors cannot be shared between threads, but their values can.
        let values = [list(&logits), list(&targets)];
        let tensor = |values: &[f32]| Tensor::from_slice(values).reshape([5, 3, 2, 7, 9]);
        let whole = ffi::bce_dice(
            &logits,
            &targets,
            [0.7, 1.3],
            2.0,
            true,
            &ProcessGroup::single(),
        );
        let (loss, gradient) = whole.unwrap();
        let gradient = list(&gradient);
        for fused in [true, false] {
            in_process_group(2, |group| {
                let share = group.shard(5);
                let part = |values: &[f32]| {
                    let rows = share.start as i64..share.end as i64;
                    tensor(values).narrow(0, rows.start, rows.end - rows.start)
                };
                let (x, t) = (part(&values[0]), part(&values[1]));
                let own = ffi::bce_dice(&x, &t, [0.7, 1.3], 2.0, fused, group).unwrap();
                assert!((own.0 - loss).abs() < 1e-6, "{fused}: {} {loss}", own.0);
                let size = gradient.len() / 5;
                let expected = &gradient[share.start * size..share.end * size];
                for (own, whole) in list(&own.1).iter().zip(expected) {
                    assert!((own - whole).abs() < 1e-8, "{fused}: {own} {whole}");
                }
            });
        }
    }
}
