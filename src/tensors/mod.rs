//! Everything that computes on tensors: devices, networks, losses, optimisers, weights. This layer and
//! `pipeline` are the only ones that know Burn; it knows nothing of files with images, grids or cases.

pub mod batch;
pub mod blocks;
mod deep_supervision;
pub mod device;
mod engine;
#[cfg(feature = "flex")]
mod flex;
pub mod freezing;
pub mod host_values;
pub mod inference;
pub mod learner;
#[cfg(feature = "libtorch")]
pub mod libtorch;
pub mod losses;
mod maps;
mod named;
pub mod networks;
pub mod optimisers;
pub mod precision;
pub mod quantisation;
mod registry;
pub mod self_test;
pub mod throughput;
pub mod torch_file;
pub mod weights;
