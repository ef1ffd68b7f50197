//! The networks that a stage recipe can name. A new one is a file here and one arm in each match below.

mod unet;
mod unet2_5d;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::tensors::blocks::burn_ops::BurnOps;
pub use unet::{Downsampling, Unet, UnetConfig};

/// The network of a stage, as written under `[network]` in its recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum NetworkConfig {
    #[serde(rename = "unet2d")]
    Unet2d(UnetConfig),
    #[serde(rename = "unet2_5d")]
    Unet25d(UnetConfig),
    #[serde(rename = "unet3d")]
    Unet3d(UnetConfig),
}

/// A network with its weights.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // there are a handful of them in a process
pub enum Network {
    Unet2d(Unet<4>),
    Unet25d(Unet<4>),
    Unet3d(Unet<5>),
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
        self.check_neighbours()?;
        match self {
            Self::Unet2d(config) => Ok(Network::Unet2d(config.init(channels, structures, device)?)),
            Self::Unet25d(config) => Ok(Network::Unet25d(unet2_5d::init(
                config, channels, structures, device,
            )?)),
            Self::Unet3d(config) => Ok(Network::Unet3d(config.init(channels, structures, device)?)),
        }
    }

    /// The number that every side of an input (both in 2D) must be a multiple of.
    pub fn multiple(&self) -> usize {
        match self {
            Self::Unet2d(config) | Self::Unet25d(config) | Self::Unet3d(config) => {
                config.multiple()
            }
        }
    }

    /// How many slices above the one to be marked the network sees, and as many below; 0 but for
    /// `unet2_5d`.
    pub fn neighbours(&self) -> usize {
        match self {
            Self::Unet25d(config) => unet2_5d::neighbours(config),
            Self::Unet2d(_) | Self::Unet3d(_) => 0,
        }
    }

    fn check_neighbours(&self) -> Result<()> {
        match self {
            Self::Unet2d(config) | Self::Unet3d(config) if config.neighbours.unwrap_or(0) > 0 => {
                Err(Error::invalid(format!(
                    "network.neighbours is for unet2_5d; {} has none: set it to 0 or change network.kind",
                    self.name()
                )))
            }
            _ => Ok(()),
        }
    }

    /// Whether the network works on slices (2) or on volumes (3).
    pub fn dimensions(&self) -> usize {
        match self {
            Self::Unet2d(_) | Self::Unet25d(_) => 2,
            Self::Unet3d(_) => 3,
        }
    }

    /// The recipe's name for this kind of network.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unet2d(_) => "unet2d",
            Self::Unet25d(_) => "unet2_5d",
            Self::Unet3d(_) => "unet3d",
        }
    }
}

impl Network {
    /// Logits for a batch by Burn's operations.
    ///
    /// # Shapes
    /// - `input`: (batch, channel, z, y, x), y and x (in 3D also z) multiples of
    ///   [`NetworkConfig::multiple`]; for a network that works on slices, z holds the slice in the middle
    ///   of its [`NetworkConfig::neighbours`]
    /// - output: (batch, structure, z, y, x), z = 1 for a network that works on slices
    pub fn forward(&self, input: Tensor<5>) -> Result<Tensor<5>> {
        match self {
            Self::Unet2d(network) => {
                let logits = network.forward(&BurnOps, input.squeeze_dim::<4>(2))?;
                Ok(logits.unsqueeze_dim(2))
            }
            Self::Unet25d(network) => {
                let slices = unet2_5d::slices_as_channels(input);
                Ok(network.forward(&BurnOps, slices)?.unsqueeze_dim(2))
            }
            Self::Unet3d(network) => network.forward(&BurnOps, input),
        }
    }

    /// The network as it is used after training: batch normalisation inside the convolutions.
    pub fn folded(self) -> Self {
        match self {
            Self::Unet2d(network) => Self::Unet2d(network.folded()),
            Self::Unet25d(network) => Self::Unet25d(network.folded()),
            Self::Unet3d(network) => Self::Unet3d(network.folded()),
        }
    }
}
