//! U-Net in two and three dimensions: Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for
//! Biomedical Image Segmentation", MICCAI 2015; Çiçek et al., "3D U-Net", MICCAI 2016; with padded
//! convolutions and normalisation, and in three dimensions nnU-Net's choices (InstanceNorm, LeakyReLU,
//! strided convolutions).

use burn::module::Module;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::tensors::blocks::{Activation, Conv, ConvNormAct, Engine, Norm, NormKind, UpConv};

/// First logit of every voxel: structures are rare, and a network that starts out at one half everywhere
/// spends its first epochs on learning just that (Lin et al., "Focal Loss", ICCV 2017, section 3.3; a
/// probability of 0.05).
const RARE_LOGIT: f64 = -3.0;

/// Convolutions per level and side, as in the papers.
const LAYERS_PER_LEVEL: usize = 2;

/// Settings of a [`Unet`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnetConfig {
    /// Channels per level, finest first; the last one is the bottleneck. Their number is the depth.
    #[serde(default = "default_widths")]
    pub widths: Vec<usize>,
    /// Probability with which a bottleneck activation is dropped in training, 0 = off.
    #[serde(default)]
    pub dropout: f64,
    /// `batch` (where nothing is said, in 2D) or `instance` (in 3D, where batches are small).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm: Option<NormKind>,
    /// `relu` (where nothing is said, in 2D) or `leaky_relu` (in 3D).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
    /// `pool` (where nothing is said, in 2D) or `stride` (in 3D).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downsampling: Option<Downsampling>,
    /// For `unet2_5d`: slices on each side that are seen together with the one to be marked; 2 where
    /// nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub neighbours: Option<usize>,
}

/// How a level halves the one above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Downsampling {
    /// Max-pooling.
    Pool,
    /// The level's first convolution takes every second voxel.
    Stride,
}

fn default_widths() -> Vec<usize> {
    vec![32, 64, 128, 256, 512]
}

impl Default for UnetConfig {
    fn default() -> Self {
        Self {
            widths: default_widths(),
            dropout: 0.0,
            norm: None,
            activation: None,
            downsampling: None,
            neighbours: None,
        }
    }
}

/// The network: an encoder whose levels halve the image, a decoder of transposed convolutions, skip
/// concatenations and convolutions, and a convolution of one voxel to logits.
#[derive(Module, Debug)]
pub struct Unet<const R: usize> {
    encoder: Vec<Vec<ConvNormAct<R>>>,
    up: Vec<UpConv<R>>,
    decoder: Vec<Vec<ConvNormAct<R>>>,
    head: Conv<R>,
    pool: bool,
    dropout: f64,
}

impl UnetConfig {
    /// Every side of an input must be a multiple of this: one halving per level below the first.
    pub fn multiple(&self) -> usize {
        1 << self.widths.len().saturating_sub(1)
    }

    /// # Errors
    /// No usable widths, or a dropout that is no probability.
    pub(super) fn init<const R: usize>(
        &self,
        channels: usize,
        structures: usize,
        device: &Device,
    ) -> Result<Unet<R>> {
        self.check()?;
        let axes = R - 2;
        let (one, two, three) = (vec![1; axes], vec![2; axes], vec![3; axes]);
        let flat = axes == 2;
        let norm = self.norm.unwrap_or(if flat {
            NormKind::Batch
        } else {
            NormKind::Instance
        });
        let activation = self.activation.unwrap_or(if flat {
            Activation::Relu
        } else {
            Activation::LeakyRelu
        });
        let downsampling = self.downsampling.unwrap_or(if flat {
            Downsampling::Pool
        } else {
            Downsampling::Stride
        });
        // The normalisation that follows makes a bias of the convolution meaningless.
        let layer = |from, to, stride: &[usize]| ConvNormAct {
            conv: Conv::new([from, to], &three, stride, None, device),
            norm: Some(Norm::new(norm, to, device)),
            activation,
        };
        let level = |from, to, stride: &[usize]| -> Vec<ConvNormAct<R>> {
            let rest = (1..LAYERS_PER_LEVEL).map(|_| layer(to, to, &one));
            std::iter::once(layer(from, to, stride))
                .chain(rest)
                .collect()
        };
        let widths = &self.widths;
        let inputs = std::iter::once(&channels).chain(widths);
        let encoder = inputs.zip(widths).enumerate();
        let encoder = encoder.map(|(index, (from, to))| {
            let strided = index > 0 && downsampling == Downsampling::Stride;
            level(*from, *to, if strided { &two } else { &one })
        });
        let pairs = widths.windows(2).rev();
        Ok(Unet {
            encoder: encoder.collect(),
            up: pairs
                .clone()
                .map(|pair| UpConv::new([pair[1], pair[0]], &two, device))
                .collect(),
            decoder: pairs
                .map(|pair| level(2 * pair[0], pair[0], &one))
                .collect(),
            head: Conv::new(
                [widths[0], structures],
                &one,
                &one,
                Some(RARE_LOGIT),
                device,
            ),
            pool: downsampling == Downsampling::Pool,
            dropout: self.dropout,
        })
    }

    fn check(&self) -> Result<()> {
        let widths = &self.widths;
        if !(2..=8).contains(&widths.len()) || widths.contains(&0) {
            return Err(Error::invalid(format!(
                "network.widths = {widths:?} is not usable; expected 2 to 8 levels, each with 1 channel or more"
            )));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::invalid(format!(
                "network.dropout = {} is not a probability in [0, 1)",
                self.dropout
            )));
        }
        Ok(())
    }
}

impl<const R: usize> Unet<R> {
    /// Logits of `input` on any engine.
    ///
    /// # Shapes
    /// - `input`: (batch, channel, space…), sides multiples of [`UnetConfig::multiple`]
    /// - output: (batch, structure, space…)
    pub fn forward<E: Engine<R>>(&self, engine: &E, input: E::Tensor) -> Result<E::Tensor> {
        let halves = vec![2; R - 2];
        let mut skips = Vec::with_capacity(self.encoder.len());
        let mut x = input;
        for (level, layers) in self.encoder.iter().enumerate() {
            if level > 0 && self.pool {
                x = engine.max_pool(x, &halves)?;
            }
            x = engine.block(x, layers)?;
            if level + 1 < self.encoder.len() {
                skips.push(x.clone());
            }
        }
        x = engine.dropout(x, self.dropout)?;
        for (up, layers) in self.up.iter().zip(&self.decoder) {
            x = engine.up(x, up)?;
            if let Some(skip) = skips.pop() {
                x = engine.join(skip, x)?;
            }
            x = engine.block(x, layers)?;
        }
        engine.conv(x, &self.head)
    }

    /// The network as it is used after training, see [`ConvNormAct::folded`].
    pub fn folded(self) -> Self {
        let fold = |levels: Vec<Vec<ConvNormAct<R>>>| {
            let fold_level =
                |layers: Vec<ConvNormAct<R>>| layers.into_iter().map(ConvNormAct::folded).collect();
            levels.into_iter().map(fold_level).collect()
        };
        Self {
            encoder: fold(self.encoder),
            decoder: fold(self.decoder),
            ..self
        }
    }
}
