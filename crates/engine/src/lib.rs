//! Tensor computation: devices, networks, losses, optimisers, weights. The only crate that names Burn or libtorch; it
//! knows nothing of images, grids or cases.

mod attention_maps;
pub mod batch;
pub mod benchmark;
pub mod blocks;
pub mod device;
pub mod distributed;
mod engine;
#[cfg(feature = "flex")]
mod flex;
pub mod freezing;
pub mod host_tensor;
pub mod inference;
pub mod learner;
#[cfg(feature = "libtorch")]
pub mod libtorch;
pub mod losses;
mod named_parameters;
pub mod networks;
pub mod optim;
pub mod precision;
pub mod quantisation;
mod registry;
pub mod self_test;
pub mod torch_checkpoint;
pub mod weights;
