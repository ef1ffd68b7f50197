//! The networks that a stage recipe can name: U-Nets, plain or with a residual encoder, on slices, on slices
//! with their neighbours, and on volumes.

mod config;
pub mod cost;
#[cfg(test)]
pub(crate) mod golden;
mod level;
mod plan;
mod resenc;
mod unet;

pub use config::{Downsampling, UnetConfig};
pub use unet::{Extras, PassOutputs, Unet};

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::blocks::burn_ops::BurnOps;
use ctseg_base::{Error, Result};
use plan::Plan;

/// The network of a stage, as written under `[network]` in its recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum NetworkConfig {
    #[serde(rename = "unet2d")]
    Unet2d(UnetConfig),
    /// On slices with their neighbours as further channels (as in Han, "Automatic Liver Lesion Segmentation
    /// Using a Deep Convolutional Neural Network Method", LiTS 2017, arXiv 1704.07239); the middle one is
    /// marked.
    #[serde(rename = "unet2_5d")]
    Unet25d(UnetConfig),
    #[serde(rename = "unet3d")]
    Unet3d(UnetConfig),
    /// With a residual encoder, see `resenc`; it too can see neighbours.
    #[serde(rename = "resenc2d")]
    ResEnc2d(UnetConfig),
    #[serde(rename = "resenc3d")]
    ResEnc3d(UnetConfig),
}

/// A network with its weights.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // there are a handful of them in a process
pub enum Network {
    /// On slices; several of a volume are channels one after the other.
    Slices(Unet<4>),
    Volumes(Unet<5>),
}

/// Neighbours on each side of `unet2_5d` where a recipe says nothing.
const NEIGHBOURS: usize = 2;

/// More neighbours than this are a volume, and for networks that work on those.
const MOST_NEIGHBOURS: usize = 16;

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
        let plan = self.plan()?;
        let channels = channels * self.seen_slices();
        Ok(match self.dimensions() {
            2 => Network::Slices(Unet::new(&plan, channels, structures, device)),
            _ => Network::Volumes(Unet::new(&plan, channels, structures, device)),
        })
    }

    /// What no network can have, if anything.
    pub fn problem(&self) -> Option<String> {
        self.plan().err().map(|error| error.to_string())
    }

    /// How many trained parameters the network has with `channels` input channels and `structures` output maps, without
    /// making any of them.
    ///
    /// # Errors
    /// As [`NetworkConfig::init`].
    pub fn parameters(&self, channels: usize, structures: usize) -> Result<u64> {
        let plan = self.plan()?;
        let channels = channels.saturating_mul(self.seen_slices());
        Ok(plan.parameters(channels as u64, structures as u64))
    }

    fn plan(&self) -> Result<Plan> {
        self.check_neighbours()?;
        let residual = matches!(self, Self::ResEnc2d(_) | Self::ResEnc3d(_));
        self.config().plan(self.dimensions(), residual)
    }

    /// The same network with every setting written out, for programs that do not know the defaults.
    ///
    /// # Errors
    /// As [`NetworkConfig::init`].
    pub fn written_out(&self) -> Result<Self> {
        self.check_neighbours()?;
        let mut written = self.clone();
        let (axes, neighbours) = (self.dimensions(), self.neighbours());
        let residual = matches!(self, Self::ResEnc2d(_) | Self::ResEnc3d(_));
        let (Self::Unet2d(config)
        | Self::Unet25d(config)
        | Self::Unet3d(config)
        | Self::ResEnc2d(config)
        | Self::ResEnc3d(config)) = &mut written;
        *config = UnetConfig {
            neighbours: (axes == 2).then_some(neighbours),
            ..config.written_out(axes, residual)?
        };
        Ok(written)
    }

    /// The settings, whichever the kind.
    pub fn config(&self) -> &UnetConfig {
        match self {
            Self::Unet2d(config)
            | Self::Unet25d(config)
            | Self::Unet3d(config)
            | Self::ResEnc2d(config)
            | Self::ResEnc3d(config) => config,
        }
    }

    /// The numbers that the sides of an input along z, y, x must be multiples of; 1 along z for a network
    /// that works on slices.
    pub fn multiple(&self) -> [usize; 3] {
        self.config().multiple(self.dimensions())
    }

    /// How many slices above the one to be marked a network that works on slices sees, and as many below.
    pub fn neighbours(&self) -> usize {
        match self {
            Self::Unet25d(config) => config.neighbours.unwrap_or(NEIGHBOURS),
            Self::ResEnc2d(config) => config.neighbours.unwrap_or(0),
            Self::Unet2d(_) | Self::Unet3d(_) | Self::ResEnc3d(_) => 0,
        }
    }

    /// How many slices become channels; 1 for a network that works on volumes.
    fn seen_slices(&self) -> usize {
        2 * self.neighbours() + 1
    }

    fn check_neighbours(&self) -> Result<()> {
        let neighbours = self.neighbours();
        match self {
            Self::Unet25d(_) if !(1..=MOST_NEIGHBOURS).contains(&neighbours) => {
                Err(Error::invalid(format!(
                    "network.neighbours = {neighbours} is not usable; expected 1 to {MOST_NEIGHBOURS} slices on each side (none: unet2d, more: unet3d)"
                )))
            }
            Self::ResEnc2d(_) if neighbours > MOST_NEIGHBOURS => Err(Error::invalid(format!(
                "network.neighbours = {neighbours} is not usable; expected 0 to {MOST_NEIGHBOURS} slices on each side (more: resenc3d)"
            ))),
            Self::Unet2d(config) | Self::Unet3d(config) | Self::ResEnc3d(config)
                if config.neighbours.unwrap_or(0) > 0 =>
            {
                Err(Error::invalid(format!(
                    "network.neighbours is for unet2_5d and resenc2d; {} has none: set it to 0 or change network.kind",
                    self.name()
                )))
            }
            _ => Ok(()),
        }
    }

    /// Whether the network works on slices (2) or on volumes (3).
    pub fn dimensions(&self) -> usize {
        match self {
            Self::Unet2d(_) | Self::Unet25d(_) | Self::ResEnc2d(_) => 2,
            Self::Unet3d(_) | Self::ResEnc3d(_) => 3,
        }
    }

    /// The recipe's name for this kind of network.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unet2d(_) => "unet2d",
            Self::Unet25d(_) => "unet2_5d",
            Self::Unet3d(_) => "unet3d",
            Self::ResEnc2d(_) => "resenc2d",
            Self::ResEnc3d(_) => "resenc3d",
        }
    }
}

impl Network {
    /// Logits for a batch by Burn's operations.
    ///
    /// # Shapes
    /// - `input`: (batch, channel, z, y, x), sides multiples of [`NetworkConfig::multiple`]; for a network
    ///   that works on slices, z holds the slice in the middle of its [`NetworkConfig::neighbours`]
    /// - output: (batch, structure, z, y, x), z = 1 for a network that works on slices
    pub fn forward(&self, input: Tensor<5>) -> Result<Tensor<5>> {
        let mut outputs = self.outputs(input, Extras::default())?;
        Ok(outputs.logits.swap_remove(0))
    }

    /// As [`Network::forward`], with what else is wanted.
    pub fn outputs(&self, input: Tensor<5>, wanted: Extras) -> Result<PassOutputs<Tensor<5>>> {
        match self {
            Self::Slices(network) => {
                // The slices of each channel one after the other as channels.
                let outputs = network.outputs(&BurnOps, input.flatten(1, 2), wanted)?;
                let volumes = |slices: Vec<Tensor<4>>| {
                    slices.into_iter().map(|x| x.unsqueeze_dim(2)).collect()
                };
                Ok(PassOutputs {
                    logits: volumes(outputs.logits),
                    maps: volumes(outputs.maps),
                })
            }
            Self::Volumes(network) => network.outputs(&BurnOps, input, wanted),
        }
    }

    /// How many logits a pass in training gives, from the finest level down; more than 1 under deep
    /// supervision.
    pub fn scales(&self) -> usize {
        match self {
            Self::Slices(network) => network.scales(),
            Self::Volumes(network) => network.scales(),
        }
    }

    /// How many attention gates there are.
    pub fn gates(&self) -> usize {
        match self {
            Self::Slices(network) => network.gates(),
            Self::Volumes(network) => network.gates(),
        }
    }

    /// The network as it is used after training: batch normalisation inside the convolutions.
    pub fn folded(self) -> Self {
        match self {
            Self::Slices(network) => Self::Slices(network.folded()),
            Self::Volumes(network) => Self::Volumes(network.folded()),
        }
    }
}
