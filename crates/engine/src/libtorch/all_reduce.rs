//! Gradients of a batch that several processes share.

use tch::{Device, Tensor};

use super::ops::failed;
use crate::batch::Batch;
use crate::distributed::process_group::{GpuValues, Team};
use crate::learner::all_reduce::share_of;
use ctseg_base::{Error, Result};

/// Values that go on their way together: so many that the calls do not count, so few that the copy does not.
const BUCKET: usize = 1 << 22;

/// Makes the gradients in `parameters`, which are of this process's share of `batch`, those of all of it.
pub(super) fn add_up_gradients(
    team: &Team,
    batch: &Batch,
    parameters: &[(String, Tensor)],
) -> Result<()> {
    if team.is_alone() {
        return Ok(());
    }
    let _no_grad = tch::no_grad_guard();
    let share = share_of(team, batch);
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
            add_up(team, &std::mem::take(&mut bucket), share)?;
            values = 0;
        }
    }
    match bucket.is_empty() {
        true => Ok(()),
        false => add_up(team, &bucket, share),
    }
}

/// Makes `statistics`, which each process has of its own share of the batches, their means over the processes: what is
/// validated by any of them is what the first one saves.
pub(super) fn agree_on_statistics(team: &Team, statistics: &[(String, Tensor)]) -> Result<()> {
    if team.is_alone() || statistics.is_empty() {
        return Ok(());
    }
    let _no_grad = tch::no_grad_guard();
    let tensors: Vec<Tensor> = statistics.iter().map(|(_, t)| t.shallow_clone()).collect();
    add_up(team, &tensors, 1.0 / team.size() as f32)
}

fn add_up(team: &Team, gradients: &[Tensor], share: f32) -> Result<()> {
    let flat: Vec<Tensor> = gradients
        .iter()
        .map(|gradient| gradient.f_reshape([-1]))
        .collect::<std::result::Result<_, _>>()
        .map_err(failed)?;
    let mut sums = Tensor::f_cat(&flat, 0).map_err(failed)?;
    sum_in_place(team, &mut sums)?;
    if share != 1.0 {
        sums = sums.f_mul_scalar(f64::from(share)).map_err(failed)?;
    }
    let mut at = 0;
    for gradient in gradients {
        let count = gradient.numel() as i64;
        let part = sums
            .f_narrow(0, at, count)
            .and_then(|part| part.f_reshape(gradient.size()));
        gradient
            .shallow_clone()
            .f_copy_(&part.map_err(failed)?)
            .map_err(failed)?;
        at += count;
    }
    Ok(())
}

/// `values` lie side by side, in f32.
fn sum_in_place(team: &Team, values: &mut Tensor) -> Result<()> {
    if values.kind() != tch::Kind::Float || !values.is_contiguous() {
        return Err(Error::invalid("internal: gradients that are not in f32"));
    }
    let address = values.data_ptr().cast::<f32>();
    let count = values.numel();
    if values.device() == Device::Cpu {
        // SAFETY: the tensor owns so many f32, and nobody else writes to it meanwhile.
        return team.sum_f32(unsafe { std::slice::from_raw_parts_mut(address, count) });
    }
    if let Some(summed) = team.sum_on_gpu(GpuValues { address, count }) {
        return summed;
    }
    let mut here = Vec::<f32>::try_from(&*values).map_err(failed)?;
    team.sum_f32(&mut here)?;
    values.f_copy_(&Tensor::from_slice(&here)).map_err(failed)
}
