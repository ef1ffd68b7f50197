//! The libtorch engine: everything that names burn-tch, tch or the C++ part (`shim/`) is in this folder.
//!
//! Networks stay Burn modules; their blocks run as libtorch calls on the tensors that the modules hold,
//! under libtorch's autograd, channels side by side in memory, in f32, bf16 or f16 with weights in f32.

// burn-tch is the one way from Burn to libtorch; it is pinned.
#![allow(deprecated)]

mod average;
mod cuda_library;
mod ffi;
mod int8;
mod learner;
mod loss_scale;
mod losses;
mod module;
pub mod nccl;
#[cfg(test)]
mod network_tests;
mod ops;
mod self_test;
mod sharing;
#[cfg(all(test, feature = "flex"))]
mod tests;
mod transfer;

use std::sync::Once;

use tch::{Kind, Tensor};

pub use cuda_library::cuda_problem;
pub use ffi::{cpu_memory, cuda_peak, knows_cuda, limit_cpu_memory, reset_cpu_peak};
pub use int8::Quantised;
pub use learner::TorchLearner;
pub(super) use self_test::ones_convolved;
pub use transfer::HostTensor;

use super::device::{Compute, DeviceChoice};
use super::host_values::HostValues;
use super::inference::Convolutions;
use super::maps::Map;
use super::networks::{Extras, Network};
use super::precision::{Precision, cpu_has_bf16};
use crate::error::{Error, Result};
use ffi::Mode;
use int8::Int8Ops;
use ops::TorchOps;

/// Whether this machine has an NVIDIA GPU that this libtorch can use.
pub fn has_cuda() -> bool {
    tch::Cuda::is_available()
}

/// How many NVIDIA GPUs there are.
pub fn cuda_devices() -> usize {
    usize::try_from(tch::Cuda::device_count()).unwrap_or(0)
}

/// What must be set before the first tensor: memory that is kept, and `threads` for one operation.
pub fn set_up(threads: usize) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        ffi::use_caching_allocator();
        tch::set_num_interop_threads(1); // operations follow one another here
    });
    tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
}

/// `network` as it is used and not trained: weights in `precision`, batch normalisation folded away.
pub(super) fn prepared(network: Network, precision: Precision) -> Result<Network> {
    module::usable(network, kind_of(precision))
}

/// Mean logits of `networks` (each from [`prepared`]) for a batch, or what is wanted in their place. They are the ones
/// from `first` on of those that `convolutions` is about.
///
/// # Shapes
/// - `input`: (patch, channel, z, y, x), flattened
/// - output: (patch, structure, z, y, x), flattened, and its shape
pub(super) fn mean_logits(
    networks: &[Network],
    input: &[f32],
    shape: [usize; 5],
    (convolutions, first): (&Convolutions, usize),
    compute: &Compute,
    wanted: Extras,
) -> Result<(HostValues, [usize; 5])> {
    let _no_grad = tch::no_grad_guard();
    // Volumes differ in size, and each new size would be searched for anew.
    tch::Cuda::cudnn_set_benchmark(false);
    let input = transfer::to_device(input, &shape, device_of(compute.choice))?;
    let ops = TorchOps {
        mode: Mode::Inference,
        recompute: false,
    };
    let kind = kind_of(compute.precision);
    let logits = networks
        .iter()
        .enumerate()
        .map(|(index, network)| {
            let outputs = match convolutions {
                Convolutions::Plain => ops::outputs(network, &ops, &input, kind, wanted),
                Convolutions::Recorded(ranges) => {
                    let ops = Int8Ops::recording(&ranges[first + index]);
                    ops::outputs(network, &ops, &input, kind, wanted)
                }
                Convolutions::Int8(quantised) => {
                    let ops = Int8Ops::using(&quantised[first + index]);
                    ops::outputs(network, &ops, &input, kind, wanted)
                }
            };
            Ok(outputs?.logits.swap_remove(0))
        })
        .collect::<Result<Vec<_>>>()?;
    let mean = match logits.as_slice() {
        [] => return Err(Error::invalid("internal: a stage without networks")),
        [one] => one.shallow_clone(),
        all => {
            let mut sum = all[0].f_to_kind(Kind::Float).map_err(ops::failed)?;
            for logits in &all[1..] {
                sum = sum.f_add(logits).map_err(ops::failed)?;
            }
            sum.f_div_scalar(all.len() as f64).map_err(ops::failed)?
        }
    };
    let shape: Vec<usize> = mean.size().iter().map(|size| *size as usize).collect();
    let shape = shape
        .try_into()
        .map_err(|_| Error::invalid("internal: logits that have not five axes"))?;
    Ok((transfer::to_values(&mean)?, shape))
}

/// The values of a tensor of this engine in plain memory, as f32.
pub(super) fn plain<const D: usize>(tensor: burn::tensor::Tensor<D>) -> Result<Vec<f32>> {
    transfer::to_host(&ops::native(tensor)?)
}

/// The maps of `network`'s attention gates (from [`prepared`]), finest first, each as large as its level.
///
/// # Shapes
/// - `input`: (patch, channel, z, y, x), flattened
/// - output: (patch, 1, z, y, x), flattened, and its shape
pub(super) fn attention_maps(
    network: &Network,
    input: &[f32],
    shape: [usize; 5],
    compute: &Compute,
) -> Result<Vec<Map>> {
    let _no_grad = tch::no_grad_guard();
    let input = transfer::to_device(input, &shape, device_of(compute.choice))?;
    let ops = TorchOps {
        mode: Mode::Inference,
        recompute: false,
    };
    let wanted = Extras::attention();
    let outputs = ops::outputs(network, &ops, &input, kind_of(compute.precision), wanted)?;
    let plain = |map: &Tensor| {
        let size: Vec<usize> = map.size().iter().map(|side| *side as usize).collect();
        let shape = size
            .try_into()
            .map_err(|_| Error::invalid("internal: a map that has not five axes"))?;
        Ok((transfer::to_host(map)?, shape))
    };
    outputs.maps.iter().map(plain).collect()
}

/// Whether `error` says that a device had no memory left.
pub(super) fn is_out_of_memory(error: &Error) -> bool {
    const SIGNS: [&str; 6] = [
        "out of memory",
        "can't allocate memory",
        "CUDNN_STATUS_ALLOC_FAILED",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "unable to find an engine",
        "Unable to find a valid cuDNN algorithm",
    ];
    let text = error.to_string();
    SIGNS.iter().any(|sign| text.contains(sign))
}

/// Less memory is kept for later tensors from here on, at the cost of asking the system for it more often.
pub(super) fn keep_little() {
    ffi::spare_memory(32);
}

/// Gives memory that is kept for later tensors back to the system.
pub(super) fn free_memory() -> Result<()> {
    ffi::release_cpu_memory();
    ffi::empty_cuda_cache()
}

/// Whether this GPU computes in bf16 by itself.
pub(super) fn cuda_has_bf16() -> bool {
    ffi::cuda_has_bf16()
}

fn kind_of(precision: Precision) -> Kind {
    match precision {
        Precision::F32 => Kind::Float,
        // What lies between the integers.
        Precision::Int8 if cpu_has_bf16() => Kind::BFloat16,
        Precision::Int8 => Kind::Float,
        Precision::Bf16 => Kind::BFloat16,
        Precision::F16 => Kind::Half,
    }
}

fn device_of(choice: DeviceChoice) -> tch::Device {
    match choice {
        DeviceChoice::LibTorchCuda(index) => tch::Device::Cuda(index),
        _ => tch::Device::Cpu,
    }
}
