//! What an engine computes of a network, layer by layer.

use super::layers::{Activation, Conv, ConvNormAct, UpConv};
use ctseg_base::Result;

/// Computes blocks on tensors of its own.
pub trait Ops<const R: usize> {
    type Tensor: Clone;

    /// Layers one after the other.
    fn block(&self, x: Self::Tensor, layers: &[ConvNormAct<R>]) -> Result<Self::Tensor>;

    /// A convolution alone.
    fn conv(&self, x: Self::Tensor, conv: &Conv<R>) -> Result<Self::Tensor>;

    /// The largest value of each window of `factors` voxels, without overlap.
    fn max_pool(&self, x: Self::Tensor, factors: &[usize]) -> Result<Self::Tensor>;

    /// The mean of each window of `factors` voxels, without overlap.
    fn mean_pool(&self, x: Self::Tensor, factors: &[usize]) -> Result<Self::Tensor>;

    fn up(&self, x: Self::Tensor, up: &UpConv<R>) -> Result<Self::Tensor>;

    /// Channels of `skip`, then those of `x`.
    fn join(&self, skip: Self::Tensor, x: Self::Tensor) -> Result<Self::Tensor>;

    /// [`Ops::join`] of `skip` and what [`Ops::up`] makes of `x`; both are given away, so that an engine can
    /// free them as early as possible.
    fn up_joined(
        &self,
        skip: Self::Tensor,
        x: Self::Tensor,
        up: &UpConv<R>,
    ) -> Result<Self::Tensor> {
        let x = self.up(x, up)?;
        self.join(skip, x)
    }

    /// The sum of two tensors of one shape, activated.
    fn add(&self, a: Self::Tensor, b: Self::Tensor, activation: Activation)
    -> Result<Self::Tensor>;

    fn sigmoid(&self, x: Self::Tensor) -> Result<Self::Tensor>;

    /// Each channel of `x` times the one channel of `map`.
    fn multiply(&self, x: Self::Tensor, map: Self::Tensor) -> Result<Self::Tensor>;

    /// In training each element is dropped with this probability, and the others scaled up.
    fn dropout(&self, x: Self::Tensor, probability: f64) -> Result<Self::Tensor>;
}
