//! Building blocks of networks: their weights and settings. The computation is behind [`Ops`]: [`burn_ops`] for
//! Burn's tensors, `libtorch` for libtorch's own calls.
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
