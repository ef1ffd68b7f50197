//! Conversion of devices and precisions to libtorch's types.

use tch::Kind;

use crate::device::DeviceChoice;
use crate::precision::{Precision, cpu_has_bf16};

/// Number of NVIDIA GPUs.
pub fn cuda_devices() -> usize {
    usize::try_from(tch::Cuda::device_count()).unwrap_or(0)
}

pub(super) fn kind_of(precision: Precision) -> Kind {
    match precision {
        Precision::F32 => Kind::Float,
        // Operations between the int8 convolutions.
        Precision::Int8 if cpu_has_bf16() => Kind::BFloat16,
        Precision::Int8 => Kind::Float,
        Precision::Bf16 => Kind::BFloat16,
        Precision::F16 => Kind::Half,
    }
}

pub(super) fn device_of(choice: DeviceChoice) -> tch::Device {
    match choice {
        DeviceChoice::LibTorchCuda(index) => tch::Device::Cuda(index),
        _ => tch::Device::Cpu,
    }
}
