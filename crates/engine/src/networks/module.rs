//! What a network's module computes, on the tensors of any engine.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::blocks::burn_ops::BurnOps;
use crate::blocks::{Conv, Ops};
use ctseg_base::Result;

/// The weights of a network, and its forward pass.
pub trait NetworkModule: Module {
    /// The logits of a batch and the additional `wanted` outputs. A network on slices computes them by [`on_slices`],
    /// one on volumes by [`on_volumes`].
    fn pass<E: Ranks>(
        &self,
        ops: &E,
        input: E::Input,
        wanted: Extras,
    ) -> Result<PassOutputs<E::Output>>;

    /// Number of output maps, and of input features of the last layer.
    fn head_size(&self) -> [usize; 2];

    /// The last layer, if it is a 1×1 convolution and the pass supports [`Extras::features`].
    fn head(&self) -> Option<HeadTensors> {
        None
    }

    /// Number of logits in training, finest first; more than 1 with deep supervision.
    fn scales(&self) -> usize {
        1
    }

    /// Number of attention gates.
    fn gates(&self) -> usize {
        0
    }

    /// The network for inference, with batch normalisation folded into convolutions.
    fn folded(self) -> Self {
        self
    }
}

/// Weights (map, feature) and biases of a 1×1 convolution, flattened.
pub struct HeadTensors {
    pub weights: Tensor<1>,
    pub biases: Option<Tensor<1>>,
}

impl<const R: usize> From<&Conv<R>> for HeadTensors {
    fn from(conv: &Conv<R>) -> Self {
        Self {
            weights: conv.weight.val().flatten(0, R - 1),
            biases: conv.bias.as_ref().map(|bias| bias.val()),
        }
    }
}

/// Outputs of a pass besides the finest logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extras {
    /// Logits of coarser levels, if the network has heads for them.
    pub deep: bool,
    /// Attention maps.
    pub maps: bool,
    /// The input features of the head instead of the finest logits.
    pub features: bool,
}

impl Extras {
    /// Outputs for training.
    pub fn training() -> Self {
        Self {
            deep: true,
            ..Self::default()
        }
    }

    /// Outputs for attention maps.
    pub fn attention() -> Self {
        Self {
            maps: true,
            ..Self::default()
        }
    }
}

/// The outputs of a pass.
#[derive(Debug, Clone)]
pub struct PassOutputs<T> {
    /// Finest first; each half the size of the one before (or as the strides determine).
    pub logits: Vec<T>,
    /// Attention maps, finest first, one channel each, with values in (0, 1).
    pub maps: Vec<T>,
}

impl<T> PassOutputs<T> {
    fn converted<U>(self, convert: impl Fn(T) -> Result<U>) -> Result<PassOutputs<U>> {
        Ok(PassOutputs {
            logits: self
                .logits
                .into_iter()
                .map(&convert)
                .collect::<Result<_>>()?,
            maps: self.maps.into_iter().map(&convert).collect::<Result<_>>()?,
        })
    }
}

/// An engine's operations on slices and on volumes, and the conversion of a batch to either.
pub trait Ranks: Ops<4> + Ops<5> {
    /// (batch, channel, z, y, x)
    type Input;
    /// (batch, channel, z, y, x), z = 1 from slices
    type Output;

    /// Stacks the slices of each channel as channels: (batch, channel · z, y, x).
    fn to_slices(input: Self::Input) -> Result<Slices<Self>>;
    fn to_volumes(input: Self::Input) -> Result<Volumes<Self>>;
    fn from_slices(slices: Slices<Self>) -> Result<Self::Output>;
    fn from_volumes(volumes: Volumes<Self>) -> Result<Self::Output>;
}

/// A tensor of an engine: (batch, channel, y, x).
pub type Slices<E> = <E as Ops<4>>::Tensor;

/// A tensor of an engine: (batch, channel, z, y, x).
pub type Volumes<E> = <E as Ops<5>>::Tensor;

/// The pass of a network on slices.
pub fn on_slices<E: Ranks>(
    input: E::Input,
    compute: impl FnOnce(Slices<E>) -> Result<PassOutputs<Slices<E>>>,
) -> Result<PassOutputs<E::Output>> {
    compute(E::to_slices(input)?)?.converted(E::from_slices)
}

/// The pass of a network on volumes.
pub fn on_volumes<E: Ranks>(
    input: E::Input,
    compute: impl FnOnce(Volumes<E>) -> Result<PassOutputs<Volumes<E>>>,
) -> Result<PassOutputs<E::Output>> {
    compute(E::to_volumes(input)?)?.converted(E::from_volumes)
}

impl Ranks for BurnOps {
    type Input = Tensor<5>;
    type Output = Tensor<5>;

    fn to_slices(input: Tensor<5>) -> Result<Tensor<4>> {
        Ok(input.flatten(1, 2))
    }

    fn to_volumes(input: Tensor<5>) -> Result<Tensor<5>> {
        Ok(input)
    }

    fn from_slices(slices: Tensor<4>) -> Result<Tensor<5>> {
        Ok(slices.unsqueeze_dim(2))
    }

    fn from_volumes(volumes: Tensor<5>) -> Result<Tensor<5>> {
        Ok(volumes)
    }
}
