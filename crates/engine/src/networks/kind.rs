//! What a kind of network provides.

use std::fmt::Debug;

use burn::tensor::Device;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::module::NetworkModule;
use super::unet_config::UnetConfig;
use ctseg_base::Result;

/// The name of a kind of network in recipes, as listed in `registry`.
pub trait Named {
    const NAME: &'static str;
}

/// A kind of network: its settings, and how to build it.
pub trait NetworkKind: Named {
    /// As under `[network]` in a recipe, besides `kind`.
    type Settings: Debug + Clone + PartialEq + Serialize + DeserializeOwned;
    type Module: NetworkModule;

    /// 2 for a network on slices, 3 for volumes.
    const DIMENSIONS: usize;

    /// A newly initialised network with `channels` input channels (the neighbouring slices included) and one logit
    /// map per structure.
    ///
    /// # Errors
    /// An invalid setting.
    fn init(
        settings: &Self::Settings,
        channels: usize,
        structures: usize,
        device: &Device,
    ) -> Result<Self::Module>;

    /// Number of trained parameters of the network that [`NetworkKind::init`] gives; allocates nothing.
    ///
    /// # Errors
    /// An invalid setting.
    fn parameters(settings: &Self::Settings, channels: u64, structures: u64) -> Result<u64>;

    /// The same settings with all defaults filled in.
    ///
    /// # Errors
    /// An invalid setting.
    fn written_out(settings: &Self::Settings) -> Result<Self::Settings>;

    /// Required divisor of the input's sides along z, y, x; 1 along z for a network on slices.
    fn multiple(_settings: &Self::Settings) -> [usize; 3] {
        [1; 3]
    }

    /// Number of neighbouring input slices above the segmented one, and as many below.
    fn neighbours(_settings: &Self::Settings) -> usize {
        0
    }

    /// The settings, if the network is a U-Net.
    fn unet(_settings: &Self::Settings) -> Option<&UnetConfig> {
        None
    }
}
