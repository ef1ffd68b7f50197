//! U-Net in two dimensions: Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical
//! Image Segmentation", MICCAI 2015, with padded convolutions and batch normalisation.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig, ConvTranspose2d, ConvTranspose2dConfig};
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Dropout, DropoutConfig, Initializer, PaddingConfig2d};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// First logit of every voxel: structures are rare, and a network that starts out at one half everywhere
/// spends its first epochs on learning just that (Lin et al., "Focal Loss", ICCV 2017, section 3.3; a
/// probability of 0.05).
const RARE_LOGIT: f64 = -3.0;

/// Widths and regularisation of a [`Unet2d`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unet2dConfig {
    /// Channels per level, finest first; the last one is the bottleneck. Their number is the depth.
    #[serde(default = "default_widths")]
    pub widths: Vec<usize>,
    /// Probability with which a bottleneck activation is dropped in training, 0 = off.
    #[serde(default)]
    pub dropout: f64,
}

fn default_widths() -> Vec<usize> {
    vec![32, 64, 128, 256, 512]
}

impl Default for Unet2dConfig {
    fn default() -> Self {
        Self {
            widths: default_widths(),
            dropout: 0.0,
        }
    }
}

/// Convolution 3×3 – batch normalisation – ReLU, twice.
#[derive(Module, Debug)]
pub struct DoubleConv {
    conv1: Conv2d,
    norm1: BatchNorm,
    conv2: Conv2d,
    norm2: BatchNorm,
}

/// The network: an encoder of [`DoubleConv`]s with max-pooling between them, a decoder of transposed
/// convolutions, skip concatenations and [`DoubleConv`]s, and a 1×1 convolution to logits.
#[derive(Module, Debug)]
pub struct Unet2d {
    encoder: Vec<DoubleConv>,
    pool: MaxPool2d,
    dropout: Dropout,
    up: Vec<ConvTranspose2d>,
    decoder: Vec<DoubleConv>,
    head: Conv2d,
}

impl DoubleConv {
    fn new(input: usize, output: usize, device: &Device) -> Self {
        // The normalisation that follows makes a bias of the convolution meaningless.
        let conv = |from| {
            Conv2dConfig::new([from, output], [3, 3])
                .with_padding(PaddingConfig2d::Same)
                .with_bias(false)
                .with_initializer(he_normal(from * 9))
                .init(device)
        };
        Self {
            conv1: conv(input),
            norm1: BatchNormConfig::new(output).init(device),
            conv2: conv(output),
            norm2: BatchNormConfig::new(output).init(device),
        }
    }

    /// # Shapes
    /// - `input`: (batch, input channel, y, x)
    /// - output: (batch, output channel, y, x)
    fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let x = relu(self.norm1.forward(self.conv1.forward(input)));
        relu(self.norm2.forward(self.conv2.forward(x)))
    }
}

impl Unet2dConfig {
    /// Both sides of an input must be a multiple of this: one halving per level below the first.
    pub fn multiple(&self) -> usize {
        1 << self.widths.len().saturating_sub(1)
    }

    pub(super) fn init(
        &self,
        channels: usize,
        structures: usize,
        device: &Device,
    ) -> Result<Unet2d> {
        let widths = &self.widths;
        if !(2..=8).contains(&widths.len()) || widths.contains(&0) {
            return Err(Error::invalid(format!(
                "unet2d: widths = {widths:?} is not usable; expected 2 to 8 levels, each with 1 channel or more"
            )));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::invalid(format!(
                "unet2d: dropout = {} is not a probability in [0, 1)",
                self.dropout
            )));
        }
        let inputs = std::iter::once(&channels).chain(widths);
        let encoder = inputs
            .zip(widths)
            .map(|(from, to)| DoubleConv::new(*from, *to, device))
            .collect();
        let levels = widths.windows(2).rev();
        let up = levels
            .clone()
            .map(|pair| {
                ConvTranspose2dConfig::new([pair[1], pair[0]], [2, 2])
                    .with_stride([2, 2])
                    .with_initializer(he_normal(pair[1]))
                    .init(device)
            })
            .collect();
        let decoder = levels
            .map(|pair| DoubleConv::new(2 * pair[0], pair[0], device))
            .collect();
        let mut head = Conv2dConfig::new([widths[0], structures], [1, 1])
            .with_initializer(he_normal(widths[0]))
            .init(device);
        head.bias = Some(Initializer::Constant { value: RARE_LOGIT }.init([structures], device));
        Ok(Unet2d {
            encoder,
            pool: MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(),
            dropout: DropoutConfig::new(self.dropout).init(),
            up,
            decoder,
            head,
        })
    }
}

/// He, Zhang, Ren and Sun, "Delving Deep into Rectifiers", ICCV 2015, for a fan-in of `fan_in`.
fn he_normal(fan_in: usize) -> Initializer {
    Initializer::Normal {
        mean: 0.0,
        std: (2.0 / fan_in as f64).sqrt(),
    }
}

impl Unet2d {
    /// # Shapes
    /// - `input`: (batch, channel, y, x), y and x multiples of [`Unet2dConfig::multiple`]
    /// - output: (batch, structure, y, x), logits
    pub fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let mut skips = Vec::with_capacity(self.encoder.len());
        let mut x = input;
        for (level, block) in self.encoder.iter().enumerate() {
            if level > 0 {
                x = self.pool.forward(x);
            }
            x = block.forward(x);
            skips.push(x.clone());
        }
        skips.pop(); // the bottleneck is no skip
        x = self.dropout.forward(x);
        for (up, block) in self.up.iter().zip(&self.decoder) {
            x = up.forward(x);
            if let Some(skip) = skips.pop() {
                x = Tensor::cat(vec![skip, x], 1);
            }
            x = block.forward(x);
        }
        self.head.forward(x)
    }
}
