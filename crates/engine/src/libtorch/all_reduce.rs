//! All-reduce of gradients and statistics over the processes of a group.

use tch::{Device, Tensor};

use super::ops::torch_error;
use crate::batch::Batch;
use crate::distributed::process_group::{GpuValues, ProcessGroup};
use crate::learner::all_reduce::gradient_scale;
use ctseg_base::{Error, Result};

/// Values per all-reduce call: enough to amortise the call, few enough for a cheap copy.
const BUCKET: usize = 1 << 22;

/// Turns the gradients in `parameters`, computed on this process's share of `batch`, into those of the whole batch.
pub(super) fn all_reduce_gradients(
    group: &ProcessGroup,
    batch: &Batch,
    parameters: &[(String, Tensor)],
) -> Result<()> {
    if group.is_single() {
        return Ok(());
    }
    let _no_grad = tch::no_grad_guard();
    let share = gradient_scale(group, batch);
    let gradients: Vec<Tensor> = parameters
        .iter()
        .map(|(_, parameter)| parameter.grad())
        .filter(Tensor::defined)
        .collect();
    let mut bucket = Vec::new();
    let mut values = 0;
    for gradient in gradients {
        values += gradient.numel();
        bucket.push(gradient);
        if values >= BUCKET {
            all_reduce_flat(group, &std::mem::take(&mut bucket), share)?;
            values = 0;
        }
    }
    match bucket.is_empty() {
        true => Ok(()),
        false => all_reduce_flat(group, &bucket, share),
    }
}

/// Averages running `statistics` over the processes, each of which has those of its own share of the batches. All
/// processes then validate the network that rank 0 saves.
pub(super) fn average_statistics(
    group: &ProcessGroup,
    statistics: &[(String, Tensor)],
) -> Result<()> {
    if group.is_single() || statistics.is_empty() {
        return Ok(());
    }
    let _no_grad = tch::no_grad_guard();
    let tensors: Vec<Tensor> = statistics.iter().map(|(_, t)| t.shallow_clone()).collect();
    all_reduce_flat(group, &tensors, 1.0 / group.size() as f32)
}

fn all_reduce_flat(group: &ProcessGroup, gradients: &[Tensor], share: f32) -> Result<()> {
    let flat: Vec<Tensor> = gradients
        .iter()
        .map(|gradient| gradient.f_reshape([-1]))
        .collect::<std::result::Result<_, _>>()
        .map_err(torch_error)?;
    let mut sums = Tensor::f_cat(&flat, 0).map_err(torch_error)?;
    all_reduce_in_place(group, &mut sums)?;
    if share != 1.0 {
        sums = sums.f_mul_scalar(f64::from(share)).map_err(torch_error)?;
    }
    let mut at = 0;
    for gradient in gradients {
        let count = gradient.numel() as i64;
        let part = sums
            .f_narrow(0, at, count)
            .and_then(|part| part.f_reshape(gradient.size()));
        gradient
            .shallow_clone()
            .f_copy_(&part.map_err(torch_error)?)
            .map_err(torch_error)?;
        at += count;
    }
    Ok(())
}

/// `values` must be contiguous f32.
fn all_reduce_in_place(group: &ProcessGroup, values: &mut Tensor) -> Result<()> {
    if values.kind() != tch::Kind::Float || !values.is_contiguous() {
        return Err(Error::internal("gradients that are not in f32"));
    }
    let address = values.data_ptr().cast::<f32>();
    let count = values.numel();
    if values.device() == Device::Cpu {
        // SAFETY: the tensor owns `count` f32 values, and nothing else writes to it meanwhile.
        return group.all_reduce_f32(unsafe { std::slice::from_raw_parts_mut(address, count) });
    }
    if let Some(summed) = group.all_reduce_gpu(GpuValues { address, count }) {
        return summed;
    }
    let mut here = Vec::<f32>::try_from(&*values).map_err(torch_error)?;
    group.all_reduce_f32(&mut here)?;
    values
        .f_copy_(&Tensor::from_slice(&here))
        .map_err(torch_error)
}
