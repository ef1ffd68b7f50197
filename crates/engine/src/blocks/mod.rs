//! The parts that networks are made of. Here are their weights and settings; what they compute is the business of
//! [`Ops`]: [`burn_ops`] on Burn's tensors, `libtorch` by libtorch's own calls.
//!
//! `R` is the rank of an image tensor: 4 for (batch, channel, y, x), 5 for (batch, channel, z, y, x).

mod attention_gate;
pub mod burn_ops;
mod fold;
mod layers;
mod norm;
mod ops;
mod residual;
pub mod shape_ops;

pub use attention_gate::Gate;
pub use layers::{Activation, Conv, ConvNormAct, LayerSettings, UpConv};
pub use norm::{Norm, NormKind};
pub use ops::Ops;
pub use residual::Residual;
