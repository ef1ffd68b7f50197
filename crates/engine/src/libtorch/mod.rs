//! The libtorch engine: everything that names burn-tch, tch or the C++ part (`shim/`) is in this folder.
//!
//! Networks stay Burn modules; their blocks run as libtorch calls on the tensors that the modules hold,
//! under libtorch's autograd, channels side by side in memory, in f32, bf16 or f16 with weights in f32.

// burn-tch is the one way from Burn to libtorch; it is pinned.
#![allow(deprecated)]

mod all_reduce;
mod cuda_library;
mod device;
mod ema;
pub(crate) mod engine;
mod ffi;
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
pub use ffi::knows_cuda;
pub use memory::{cpu_memory, limit_cpu_memory, reset_cpu_peak};
