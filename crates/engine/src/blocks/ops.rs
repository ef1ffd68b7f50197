//! The operations of a network that an engine implements.

use super::layers::{Activation, Conv, ConvNormAct, UpConv};
use ctseg_base::Result;

/// Computes blocks on the engine's own tensors.
pub trait Ops<const R: usize> {
    type Tensor: Clone;

    /// Applies layers in sequence.
    fn block(&self, x: Self::Tensor, layers: &[ConvNormAct<R>]) -> Result<Self::Tensor>;

    /// Applies a convolution.
    fn conv(&self, x: Self::Tensor, conv: &Conv<R>) -> Result<Self::Tensor>;

    /// Max pooling over windows of `factors` voxels, without overlap.
    fn max_pool(&self, x: Self::Tensor, factors: &[usize]) -> Result<Self::Tensor>;

    /// Average pooling over windows of `factors` voxels, without overlap.
    fn mean_pool(&self, x: Self::Tensor, factors: &[usize]) -> Result<Self::Tensor>;

    fn up(&self, x: Self::Tensor, up: &UpConv<R>) -> Result<Self::Tensor>;

    /// Concatenates the channels of `skip` and `x`.
    fn join(&self, skip: Self::Tensor, x: Self::Tensor) -> Result<Self::Tensor>;

    /// [`Ops::join`] of `skip` and the result of [`Ops::up`] on `x`; takes both by value, so that an engine can free
    /// them early.
    fn up_joined(
        &self,
        skip: Self::Tensor,
        x: Self::Tensor,
        up: &UpConv<R>,
    ) -> Result<Self::Tensor> {
        let x = self.up(x, up)?;
        self.join(skip, x)
    }

    /// Adds two tensors of the same shape and applies the activation.
    fn add(&self, a: Self::Tensor, b: Self::Tensor, activation: Activation)
    -> Result<Self::Tensor>;

    fn sigmoid(&self, x: Self::Tensor) -> Result<Self::Tensor>;

    /// Multiplies each channel of `x` by the single channel of `map`.
    fn multiply(&self, x: Self::Tensor, map: Self::Tensor) -> Result<Self::Tensor>;

    /// Dropout; acts in training only.
    fn dropout(&self, x: Self::Tensor, probability: f64) -> Result<Self::Tensor>;
}
