//! Devices and types of numbers as libtorch names them.

use tch::Kind;

use crate::device::DeviceChoice;
use crate::precision::{Precision, cpu_has_bf16};

/// How many NVIDIA GPUs there are.
pub fn cuda_devices() -> usize {
    usize::try_from(tch::Cuda::device_count()).unwrap_or(0)
}

pub(super) fn kind_of(precision: Precision) -> Kind {
    match precision {
        Precision::F32 => Kind::Float,
        // What lies between the integers.
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
