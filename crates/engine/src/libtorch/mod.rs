//! The libtorch engine. Everything that names burn-tch, tch or the C++ part (`shim/`) is in this folder.
//!
//! Networks stay Burn modules; their blocks run as libtorch calls on the modules' tensors, with libtorch's autograd,
//! channels-last, in f32, bf16 or f16 with weights in f32.

// burn-tch is the only way from Burn to libtorch; its version is pinned.
#![allow(deprecated)]

mod all_reduce;
mod cuda_library;
mod device;
mod ema;
pub(crate) mod engine;
mod error;
mod ffi;
mod formula_step;
mod inference;
mod int8;
mod learner;
mod loss_scale;
#[cfg(all(test, feature = "flex"))]
mod loss_tests;
mod losses;
mod memory;
mod module;
mod nccl;
#[cfg(test)]
mod network_tests;
mod ops;
mod optimiser;
mod self_test;
#[cfg(all(test, feature = "flex"))]
mod tests;
mod transfer;

pub use device::cuda_devices;
pub use ffi::cuda_is_loaded;
pub use memory::{cpu_memory, limit_cpu_memory, reset_cpu_peak};
