//! Networks: U-Nets with a plain or residual encoder, on slices, on slices with their neighbours, and on volumes. To
//! add one: a file here that implements `NetworkKind` and `NetworkModule`, and its line in `registry`.

pub mod cost;
#[cfg(test)]
pub(crate) mod golden;
mod kind;
mod level;
mod module;
mod plan;
mod registry;
mod resenc;
mod unet;
mod unet_config;
mod unet_kinds;

pub(crate) use module::HeadTensors;
#[cfg(feature = "libtorch")]
pub(crate) use module::Ranks;
pub use module::{Extras, PassOutputs};
pub use registry::{Network, NetworkConfig};
pub use unet::Unet;
pub use unet_config::{Downsampling, UnetConfig};
