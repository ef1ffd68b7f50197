//! The networks that a stage recipe can name. A new one is a file here and one arm in each match below.

mod unet2d;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
pub use unet2d::{Unet2d, Unet2dConfig};

/// The network of a stage, as written under `[network]` in its recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum NetworkConfig {
    #[serde(rename = "unet2d")]
    Unet2d(Unet2dConfig),
}

/// A network with its weights.
#[derive(Module, Debug)]
pub enum Network {
    Unet2d(Unet2d),
}

impl NetworkConfig {
    /// A network with fresh weights that takes `channels` input channels and gives one logit map for each
    /// of `structures`. Weights follow from Burn's generator: seed the device first.
    ///
    /// # Errors
    /// A recipe value that no network can have (no level, a width of zero, …).
    pub fn init(&self, channels: usize, structures: usize, device: &Device) -> Result<Network> {
        if channels == 0 || structures == 0 {
            return Err(Error::invalid(format!(
                "a network needs at least one input channel and one structure; got {channels} and {structures}"
            )));
        }
        match self {
            Self::Unet2d(config) => Ok(Network::Unet2d(config.init(channels, structures, device)?)),
        }
    }

    /// The number that both sides of an input slice must be a multiple of.
    pub fn multiple(&self) -> usize {
        match self {
            Self::Unet2d(config) => config.multiple(),
        }
    }

    /// The recipe's name for this kind of network.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unet2d(_) => "unet2d",
        }
    }
}

impl Network {
    /// Logits for a batch of slices.
    ///
    /// # Shapes
    /// - `input`: (batch, channel, y, x), y and x multiples of [`NetworkConfig::multiple`]
    /// - output: (batch, structure, y, x)
    pub fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Unet2d(network) => network.forward(input),
        }
    }
}
