//! Batches to a device and results back.

use tch::{Device, Kind, Tensor};

use super::ffi;
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
    ffi::pinned(&host)?
        .f_to_device_(device, Kind::Float, true, false)
        .map_err(failed)
}

/// All values of `tensor` in the order of its axes, as f32; one pass, whatever its type and layout.
pub(super) fn to_host(tensor: &Tensor) -> Result<Vec<f32>> {
    let shape = tensor.size();
    let mut values = vec![0.0f32; tensor.numel()];
    if values.is_empty() {
        return Ok(values);
    }
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    // SAFETY: the shape has as many elements as the vector, which outlives the view.
    unsafe {
        let start = values.as_mut_ptr().cast::<u8>();
        let mut view = Tensor::f_from_blob(start, &shape, &strides, Kind::Float, Device::Cpu)
            .map_err(failed)?;
        view.f_copy_(&tensor.f_detach().map_err(failed)?)
            .map_err(failed)?;
    }
    Ok(values)
}
