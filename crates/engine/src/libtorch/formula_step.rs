//! Steps of optimisers without a fused step in libtorch, by their formulas on Burn's tensors.

use burn::tensor::Tensor as BurnTensor;
use tch::Tensor;

use super::module::wrapped;
use super::ops::{native, torch_error};
use crate::optim::{OptimiserConfig, Step};
use ctseg_base::{Error, Result};

/// Takes one step, see `fused_step`.
pub(super) fn formula_step(
    config: &OptimiserConfig,
    state: &[Vec<Tensor>],
    parameters: &[Tensor],
    steps: u64,
    divide_by: f64,
    rate: f64,
) -> Result<()> {
    if state.len() != config.kind.slots().len() {
        let problem = "the optimiser's state does not match its kind";
        return Err(Error::internal(problem));
    }
    let _no_grad = tch::no_grad_guard();
    for (index, parameter) in parameters.iter().enumerate() {
        let gradient = parameter.grad();
        if !gradient.defined() {
            continue;
        }
        let slots = state.iter().map(|slot| flat(&slot[index]));
        let slots = slots.collect::<Result<Vec<_>>>()?;
        let updated = config.updated(
            flat(parameter)?,
            flat(&gradient)? / divide_by,
            (steps > 0).then_some(slots),
            Step {
                rate,
                number: steps + 1,
            },
        );
        copy_into(parameter, updated.weight)?;
        for (slot, value) in state.iter().zip(updated.state) {
            copy_into(&slot[index], value)?;
        }
    }
    Ok(())
}

/// A flat copy, so that Burn does not compute in place in memory that it does not own.
fn flat(tensor: &Tensor) -> Result<BurnTensor<1>> {
    let own = tensor.f_detach().and_then(|tensor| tensor.f_reshape([-1]));
    let own = own.map_err(torch_error)?;
    let mut copy = own.f_zeros_like().map_err(torch_error)?;
    copy.f_copy_(&own).map_err(torch_error)?;
    Ok(wrapped(copy))
}

fn copy_into(tensor: &Tensor, values: BurnTensor<1>) -> Result<()> {
    let values = native(values)?.f_reshape(tensor.size());
    let mut tensor = tensor.f_detach().map_err(torch_error)?;
    values
        .and_then(|values| tensor.f_copy_(&values))
        .map_err(torch_error)
}
