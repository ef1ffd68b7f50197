//! Weights and settings of layers.

use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::norm::{Norm, NormKind};

/// A convolution with "same" padding.
#[derive(Module, Debug)]
pub struct Conv<const R: usize> {
    /// (out, in, kernel…)
    pub weight: Param<Tensor<R>>,
    pub bias: Option<Param<Tensor<1>>>,
    /// Per spatial axis.
    #[module(skip)]
    pub stride: Vec<usize>,
    #[module(skip)]
    pub padding: Vec<usize>,
}

/// A transposed convolution whose kernel size equals its stride: every voxel becomes a patch of its own.
#[derive(Module, Debug)]
pub struct UpConv<const R: usize> {
    /// (in, out, kernel…)
    pub weight: Param<Tensor<R>>,
    pub bias: Param<Tensor<1>>,
    /// Kernel and stride per spatial axis.
    #[module(skip)]
    pub factors: Vec<usize>,
}

/// The activation after a normalisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    Relu,
    /// Slope 0.01 for negative values, as in nnU-Net.
    LeakyRelu,
}

impl Activation {
    /// Slope for negative values.
    pub fn slope(self) -> f64 {
        match self {
            Self::Relu => 0.0,
            Self::LeakyRelu => 0.01,
        }
    }
}

/// Convolution, normalisation (`None` if folded into the convolution), activation (`None` before an addition).
#[derive(Module, Debug)]
pub struct ConvNormAct<const R: usize> {
    pub conv: Conv<R>,
    pub norm: Option<Norm>,
    #[module(skip)]
    pub activation: Option<Activation>,
}

impl<const R: usize> ConvNormAct<R> {
    /// Slope for negative values; 1 without activation.
    pub fn slope(&self) -> f64 {
        self.activation.map_or(1.0, Activation::slope)
    }
}

/// Settings shared by all layers of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerSettings {
    pub norm: NormKind,
    /// Groups of a group normalisation.
    pub groups: usize,
    pub activation: Activation,
}

impl LayerSettings {
    /// Convolution from `channels[0]` to `channels[1]`, normalisation, activation. The convolution has no bias, as
    /// the normalisation would cancel it.
    pub fn layer<const R: usize>(
        self,
        channels: [usize; 2],
        kernel: &[usize],
        stride: &[usize],
        device: &Device,
    ) -> ConvNormAct<R> {
        ConvNormAct {
            conv: Conv::new(channels, kernel, stride, None, device),
            norm: Some(Norm::new(self.norm, self.groups, channels[1], device)),
            activation: Some(self.activation),
        }
    }
}

impl<const R: usize> Conv<R> {
    /// Output and input channels.
    pub fn size(&self) -> [usize; 2] {
        let shape = self.weight.lazy_shape();
        [shape[0], shape[1]]
    }

    /// Weights initialised for a following ReLU (see `he_normal`).
    pub fn new(
        channels: [usize; 2],
        kernel: &[usize],
        stride: &[usize],
        bias: Option<f64>,
        device: &Device,
    ) -> Self {
        let [from, to] = channels;
        Self {
            weight: he_normal(from * kernel.iter().product::<usize>())
                .init(shape::<R>(to, from, kernel), device),
            bias: bias.map(|value| Initializer::Constant { value }.init([to], device)),
            stride: stride.to_vec(),
            padding: kernel.iter().map(|size| size / 2).collect(),
        }
    }
}

impl<const R: usize> UpConv<R> {
    pub fn new(channels: [usize; 2], factors: &[usize], device: &Device) -> Self {
        let [from, to] = channels;
        Self {
            weight: he_normal(from).init(shape::<R>(from, to, factors), device),
            bias: Initializer::Zeros.init([to], device),
            factors: factors.to_vec(),
        }
    }
}

/// He initialisation (He, Zhang, Ren and Sun, "Delving Deep into Rectifiers", ICCV 2015) for `fan_in` inputs.
fn he_normal(fan_in: usize) -> Initializer {
    Initializer::Normal {
        mean: 0.0,
        std: (2.0 / fan_in as f64).sqrt(),
    }
}

/// `[first, second, kernel…]`
fn shape<const R: usize>(first: usize, second: usize, kernel: &[usize]) -> [usize; R] {
    std::array::from_fn(|axis| match axis {
        0 => first,
        1 => second,
        _ => kernel.get(axis - 2).copied().unwrap_or(1),
    })
}
