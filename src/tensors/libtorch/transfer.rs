//! Batches to a device and results back.

use tch::{Device, Kind, Tensor};

use super::ops::failed;
use crate::error::Result;

/// `values` as a tensor on `device`. To a GPU it goes through page-locked memory, beside the work that is
/// under way there.
pub(super) fn to_device(values: &[f32], shape: &[usize], device: Device) -> Result<Tensor> {
    let shape: Vec<i64> = shape.iter().map(|size| *size as i64).collect();
    let host = Tensor::f_from_slice(values)
        .and_then(|tensor| tensor.f_reshape(&shape))
        .map_err(failed)?;
    if device == Device::Cpu {
        return Ok(host);
    }
    host.f_pin_memory(device)
        .and_then(|pinned| pinned.f_to_device_(device, Kind::Float, true, false))
        .map_err(failed)
}

/// All values of `tensor` in the order of its axes.
pub(super) fn to_host(tensor: &Tensor) -> Result<Vec<f32>> {
    let flat = tensor
        .f_to_device(Device::Cpu)
        .and_then(|tensor| tensor.f_to_kind(Kind::Float))
        .and_then(|tensor| tensor.f_reshape([-1]))
        .map_err(failed)?;
    Vec::<f32>::try_from(&flat).map_err(failed)
}
