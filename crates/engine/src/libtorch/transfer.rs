//! Transfer of batches to a device, and of results back.

use std::ops::Deref;

use tch::{Device, Kind, Tensor};

use super::ffi;
use super::ops::torch_error;
use crate::host_tensor::HostValues;
use ctseg_base::Result;

/// Copies `values` to a tensor on `device`. Transfer to a GPU uses page-locked memory and overlaps with its work.
pub(super) fn to_device(values: &[f32], shape: &[usize], device: Device) -> Result<Tensor> {
    let shape: Vec<i64> = shape.iter().map(|size| *size as i64).collect();
    let host = Tensor::f_from_slice(values)
        .and_then(|tensor| tensor.f_reshape(&shape))
        .map_err(torch_error)?;
    if device == Device::Cpu {
        return Ok(host);
    }
    ffi::pinned(&host)?
        .f_to_device_(device, Kind::Float, true, false)
        .map_err(torch_error)
}

/// All values of `tensor` in row-major order, as f32; one pass for any type and layout.
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
    // SAFETY: the vector has as many elements as the shape, and outlives the view.
    unsafe {
        let start = values.as_mut_ptr().cast::<u8>();
        let mut view = Tensor::f_from_blob(start, &shape, &strides, Kind::Float, Device::Cpu)
            .map_err(torch_error)?;
        view.f_copy_(&tensor.f_detach().map_err(torch_error)?)
            .map_err(torch_error)?;
    }
    Ok(values)
}

/// Values in libtorch's cached memory, which is reused with every batch.
struct HostTensor(Tensor);

impl HostTensor {
    /// All values of `tensor` in row-major order, as f32.
    fn of(tensor: &Tensor) -> Result<Self> {
        let mut values =
            Tensor::f_empty(tensor.size(), (Kind::Float, Device::Cpu)).map_err(torch_error)?;
        let copied = tensor.f_detach().and_then(|from| values.f_copy_(&from));
        copied.map_err(torch_error)?;
        Ok(Self(values))
    }
}

impl Deref for HostTensor {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self.0.numel() {
            0 => &[],
            // SAFETY: created above as contiguous f32 on the CPU, and never changed.
            count => unsafe { std::slice::from_raw_parts(self.0.data_ptr().cast::<f32>(), count) },
        }
    }
}

/// [`to_host`], but values on the CPU stay in the engine's own memory.
pub(super) fn to_values(tensor: &Tensor) -> Result<HostValues> {
    if tensor.device() == Device::Cpu {
        return Ok(HostValues::Borrowed(Box::new(HostTensor::of(tensor)?)));
    }
    to_host(tensor).map(HostValues::Owned)
}
