//! The kinds of networks, by their names in recipes.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::de::value::MapDeserializer;
use serde::{Deserialize, Serialize};

use super::kind::{Named, NetworkKind};
use super::module::{Extras, HeadTensors, NetworkModule, PassOutputs, Ranks};
use super::unet_config::UnetConfig;
use crate::blocks::burn_ops::BurnOps;
use ctseg_base::{Error, Result};

/// Defines the two enums of all kinds, one of their settings and one of their modules, as `serde` and Burn need
/// concrete types; and passes calls on to the kind.
macro_rules! networks {
    ($($(#[$doc:meta])* $name:literal => super::$file:ident::$kind:ident,)+) => {
        $(impl Named for super::$file::$kind {
            const NAME: &'static str = $name;
        })+

        /// The network of a stage, as under `[network]` in its recipe.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "kind")]
        pub enum NetworkConfig {
            $($(#[$doc])* #[serde(rename = $name)] $kind(<super::$file::$kind as NetworkKind>::Settings),)+
        }

        /// A network with its weights.
        #[derive(Module, Debug)]
        #[allow(clippy::large_enum_variant)] // a process holds only a few
        pub enum Network {
            $($kind(<super::$file::$kind as NetworkKind>::Module),)+
        }

        impl NetworkConfig {
            /// The names of all kinds in recipes.
            pub const NAMES: &[&str] = &[$($name),+];

            /// Name of this kind of network in recipes.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$kind(_) => $name,)+ }
            }

            /// 2 for a network on slices, 3 for volumes.
            pub fn dimensions(&self) -> usize {
                match self { $(Self::$kind(_) => super::$file::$kind::DIMENSIONS,)+ }
            }

            /// Required divisor of the input's sides along z, y, x; 1 along z for a network on slices.
            pub fn multiple(&self) -> [usize; 3] {
                match self { $(Self::$kind(settings) => super::$file::$kind::multiple(settings),)+ }
            }

            /// Number of neighbouring input slices above the segmented one, and as many below.
            pub fn neighbours(&self) -> usize {
                match self { $(Self::$kind(settings) => super::$file::$kind::neighbours(settings),)+ }
            }

            /// The settings, if the network is a U-Net.
            pub fn unet(&self) -> Option<&UnetConfig> {
                match self { $(Self::$kind(settings) => super::$file::$kind::unet(settings),)+ }
            }

            /// The same network with all defaults filled in, for programs that do not know the defaults.
            ///
            /// # Errors
            /// As [`NetworkConfig::init`].
            pub fn written_out(&self) -> Result<Self> {
                Ok(match self {
                    $(Self::$kind(settings) => Self::$kind(super::$file::$kind::written_out(settings)?),)+
                })
            }

            fn module(&self, channels: usize, structures: usize, device: &Device) -> Result<Network> {
                Ok(match self {
                    $(Self::$kind(settings) => {
                        Network::$kind(super::$file::$kind::init(settings, channels, structures, device)?)
                    })+
                })
            }

            fn module_parameters(&self, channels: u64, structures: u64) -> Result<u64> {
                match self {
                    $(Self::$kind(settings) => super::$file::$kind::parameters(settings, channels, structures),)+
                }
            }
        }

        impl Network {
            /// Logits of a batch and the additional `wanted` outputs, on any engine.
            ///
            /// # Shapes
            /// As [`Network::forward`].
            pub(crate) fn pass<E: Ranks>(
                &self,
                ops: &E,
                input: E::Input,
                wanted: Extras,
            ) -> Result<PassOutputs<E::Output>> {
                match self { $(Self::$kind(module) => module.pass(ops, input, wanted),)+ }
            }

            /// See [`NetworkModule::scales`].
            pub fn scales(&self) -> usize {
                match self { $(Self::$kind(module) => module.scales(),)+ }
            }

            /// Number of attention gates.
            pub fn gates(&self) -> usize {
                match self { $(Self::$kind(module) => module.gates(),)+ }
            }

            /// See [`NetworkModule::head_size`].
            pub fn head_size(&self) -> [usize; 2] {
                match self { $(Self::$kind(module) => module.head_size(),)+ }
            }

            /// See [`NetworkModule::head`].
            pub(crate) fn head(&self) -> Option<HeadTensors> {
                match self { $(Self::$kind(module) => module.head(),)+ }
            }

            /// The network for inference, with batch normalisation folded into convolutions.
            pub fn folded(self) -> Self {
                match self { $(Self::$kind(module) => Self::$kind(module.folded()),)+ }
            }
        }
    };
}

networks! {
    "unet2d" => super::unet_kinds::Unet2d,
    /// On slices with neighbouring slices as additional channels; segments the middle one (as in Han, "Automatic
    /// Liver Lesion Segmentation Using a Deep Convolutional Neural Network Method", LiTS 2017, arXiv 1704.07239).
    "unet2_5d" => super::unet_kinds::Unet25d,
    "unet3d" => super::unet_kinds::Unet3d,
    /// With a residual encoder, see `resenc`; may also use neighbouring slices.
    "resenc2d" => super::unet_kinds::ResEnc2d,
    "resenc3d" => super::unet_kinds::ResEnc3d,
}

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
        let channels = channels.saturating_mul(self.seen_slices());
        self.module(channels, structures, device)
    }

    /// The network of this kind with default settings.
    ///
    /// # Errors
    /// An unknown name; the message lists the known ones.
    pub fn from_name(name: &str) -> Result<Self> {
        let kind = MapDeserializer::new([("kind", name)].into_iter());
        Self::deserialize(kind)
            .map_err(|error: serde::de::value::Error| Error::invalid(error.to_string()))
    }

    /// The first invalid setting, if any.
    pub fn problem(&self) -> Option<String> {
        self.written_out().err().map(|error| error.to_string())
    }

    /// Number of trained parameters with `channels` input channels and `structures` output maps; allocates nothing.
    ///
    /// # Errors
    /// As [`NetworkConfig::init`].
    pub fn parameters(&self, channels: usize, structures: usize) -> Result<u64> {
        let channels = channels.saturating_mul(self.seen_slices());
        self.module_parameters(channels as u64, structures as u64)
    }

    /// Number of input slices that become channels; 1 for a network on volumes.
    pub(super) fn seen_slices(&self) -> usize {
        self.neighbours().saturating_mul(2).saturating_add(1)
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
        self.pass(&BurnOps, input, wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_written_as_they_are_read() {
        for text in [
            "kind = \"unet2d\"\nwidths = [4, 8]\ndropout = 0.0\n",
            "kind = \"unet2_5d\"\nwidths = [4, 8]\ndropout = 0.5\nneighbours = 3\nattention = true\n",
            "kind = \"unet3d\"\nwidths = [4, 8]\ndropout = 0.0\nnorm = \"group\"\ngroups = 2\nstrides = [[1, 1, 1], [1, 2, 2]]\n",
            "kind = \"resenc2d\"\nwidths = [4, 8]\ndropout = 0.0\nblocks = [1, 2]\n",
            "kind = \"resenc3d\"\nwidths = [4, 8]\ndropout = 0.0\ndeep_supervision = true\n",
        ] {
            let network: NetworkConfig = toml::from_str(text).unwrap();
            assert!(text.contains(&format!("\"{}\"", network.name())), "{text}");
            assert_eq!(toml::to_string(&network).unwrap(), text);
            assert_eq!(network.problem(), None, "{text}");
        }
    }

    #[test]
    fn unknown_kinds_and_settings_are_refused() {
        for (text, message) in [
            (
                "kind = 'resnet'",
                "unknown variant `resnet`, expected one of `unet2d`, `unet2_5d`, `unet3d`, `resenc2d`, `resenc3d`",
            ),
            ("widths = [4, 8]", "missing field `kind`"),
            (
                "kind = 'unet2d'\ndepth = 3",
                "unknown field `depth`, expected one of `widths`, `dropout`, `norm`, `groups`, `activation`, `downsampling`, `kernels`, `strides`, `blocks`, `convolutions`, `decoder_convolutions`, `neighbours`, `attention`, `deep_supervision`",
            ),
        ] {
            let error = toml::from_str::<NetworkConfig>(text).unwrap_err();
            assert!(error.message().starts_with(message), "{error}");
        }
    }

    #[test]
    fn invalid_neighbours_are_refused() {
        for (text, message) in [
            (
                "kind = 'unet2_5d'\nneighbours = 0",
                "network.neighbours = 0 is invalid; expected 1 to 16 slices on each side (none: unet2d, more: unet3d)",
            ),
            (
                "kind = 'resenc2d'\nneighbours = 17",
                "network.neighbours = 17 is invalid; expected 0 to 16 slices on each side (more: resenc3d)",
            ),
            (
                "kind = 'unet3d'\nneighbours = 1",
                "network.neighbours is for unet2_5d and resenc2d; unet3d has none; set it to 0 or change network.kind",
            ),
        ] {
            let network: NetworkConfig = toml::from_str(text).unwrap();
            assert_eq!(network.problem().as_deref(), Some(message));
        }
        let none: NetworkConfig = toml::from_str("kind = 'unet2d'\nneighbours = 0").unwrap();
        assert_eq!(none.problem(), None);
    }
}
