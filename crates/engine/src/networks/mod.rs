//! Networks: U-Nets with a plain or residual encoder, on slices, on slices with their neighbours, and on volumes.

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

/// The network of a stage, as under `[network]` in its recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum NetworkConfig {
    #[serde(rename = "unet2d")]
    Unet2d(UnetConfig),
    /// On slices with neighbouring slices as additional channels; segments the middle one (as in Han, "Automatic
    /// Liver Lesion Segmentation Using a Deep Convolutional Neural Network Method", LiTS 2017, arXiv 1704.07239).
    #[serde(rename = "unet2_5d")]
    Unet25d(UnetConfig),
    #[serde(rename = "unet3d")]
    Unet3d(UnetConfig),
    /// With a residual encoder, see `resenc`; may also use neighbouring slices.
    #[serde(rename = "resenc2d")]
    ResEnc2d(UnetConfig),
    #[serde(rename = "resenc3d")]
    ResEnc3d(UnetConfig),
}

/// A network with its weights.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // a process holds only a few
pub enum Network {
    /// On slices; neighbouring slices are stacked as channels.
    Slices(Unet<4>),
    Volumes(Unet<5>),
}

/// Default neighbours on each side of `unet2_5d`.
const NEIGHBOURS: usize = 2;

/// Maximum neighbours; a network on volumes is better for more.
const MAX_NEIGHBOURS: usize = 16;

impl NetworkConfig {
    /// A newly initialised network with `channels` input channels and one logit map per structure. Weights come from
    /// Burn's generator: seed the device first.
    ///
    /// # Errors
    /// An invalid setting (no level, a width of zero, …).
    pub fn init(&self, channels: usize, structures: usize, device: &Device) -> Result<Network> {
        if channels == 0 || structures == 0 {
            return Err(Error::invalid(format!(
                "a network needs at least one input channel and one structure; found {channels} and {structures}"
            )));
        }
        let plan = self.plan()?;
        let channels = channels * self.seen_slices();
        Ok(match self.dimensions() {
            2 => Network::Slices(Unet::new(&plan, channels, structures, device)),
            _ => Network::Volumes(Unet::new(&plan, channels, structures, device)),
        })
    }

    /// The first invalid setting, if any.
    pub fn problem(&self) -> Option<String> {
        self.plan().err().map(|error| error.to_string())
    }

    /// Number of trained parameters with `channels` input channels and `structures` output maps; allocates nothing.
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

    /// The same network with all defaults filled in, for programs that do not know the defaults.
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

    /// The settings, for any kind.
    pub fn config(&self) -> &UnetConfig {
        match self {
            Self::Unet2d(config)
            | Self::Unet25d(config)
            | Self::Unet3d(config)
            | Self::ResEnc2d(config)
            | Self::ResEnc3d(config) => config,
        }
    }

    /// Required divisor of the input's sides along z, y, x; 1 along z for a network on slices.
    pub fn multiple(&self) -> [usize; 3] {
        self.config().multiple(self.dimensions())
    }

    /// Number of neighbouring input slices above the segmented one, and as many below.
    pub fn neighbours(&self) -> usize {
        match self {
            Self::Unet25d(config) => config.neighbours.unwrap_or(NEIGHBOURS),
            Self::ResEnc2d(config) => config.neighbours.unwrap_or(0),
            Self::Unet2d(_) | Self::Unet3d(_) | Self::ResEnc3d(_) => 0,
        }
    }

    /// Number of input slices that become channels; 1 for a network on volumes.
    fn seen_slices(&self) -> usize {
        2 * self.neighbours() + 1
    }

    fn check_neighbours(&self) -> Result<()> {
        let neighbours = self.neighbours();
        match self {
            Self::Unet25d(_) if !(1..=MAX_NEIGHBOURS).contains(&neighbours) => {
                Err(Error::invalid(format!(
                    "network.neighbours = {neighbours} is invalid; expected 1 to {MAX_NEIGHBOURS} slices on each side (none: unet2d, more: unet3d)"
                )))
            }
            Self::ResEnc2d(_) if neighbours > MAX_NEIGHBOURS => Err(Error::invalid(format!(
                "network.neighbours = {neighbours} is invalid; expected 0 to {MAX_NEIGHBOURS} slices on each side (more: resenc3d)"
            ))),
            Self::Unet2d(config) | Self::Unet3d(config) | Self::ResEnc3d(config)
                if config.neighbours.unwrap_or(0) > 0 =>
            {
                Err(Error::invalid(format!(
                    "network.neighbours is for unet2_5d and resenc2d; {} has none; set it to 0 or change network.kind",
                    self.name()
                )))
            }
            _ => Ok(()),
        }
    }

    /// 2 for a network on slices, 3 for volumes.
    pub fn dimensions(&self) -> usize {
        match self {
            Self::Unet2d(_) | Self::Unet25d(_) | Self::ResEnc2d(_) => 2,
            Self::Unet3d(_) | Self::ResEnc3d(_) => 3,
        }
    }

    /// Name of this kind of network in recipes.
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
    /// Logits of a batch, in Burn's operations.
    ///
    /// # Shapes
    /// - `input`: (batch, channel, z, y, x), sides multiples of [`NetworkConfig::multiple`]; for a network
    ///   that works on slices, z holds the slice in the middle of its [`NetworkConfig::neighbours`]
    /// - output: (batch, structure, z, y, x), z = 1 for a network that works on slices
    pub fn forward(&self, input: Tensor<5>) -> Result<Tensor<5>> {
        let mut outputs = self.outputs(input, Extras::default())?;
        Ok(outputs.logits.swap_remove(0))
    }

    /// [`Network::forward`] with additional outputs.
    pub fn outputs(&self, input: Tensor<5>, wanted: Extras) -> Result<PassOutputs<Tensor<5>>> {
        match self {
            Self::Slices(network) => {
                // Stack the slices of each channel as channels.
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

    /// Number of logits in training, finest first; more than 1 with deep supervision.
    pub fn scales(&self) -> usize {
        match self {
            Self::Slices(network) => network.scales(),
            Self::Volumes(network) => network.scales(),
        }
    }

    /// Number of attention gates.
    pub fn gates(&self) -> usize {
        match self {
            Self::Slices(network) => network.gates(),
            Self::Volumes(network) => network.gates(),
        }
    }

    /// The network for inference, with batch normalisation folded into convolutions.
    pub fn folded(self) -> Self {
        match self {
            Self::Slices(network) => Self::Slices(network.folded()),
            Self::Volumes(network) => Self::Volumes(network.folded()),
        }
    }
}
