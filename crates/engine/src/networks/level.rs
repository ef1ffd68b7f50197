//! Levels of a U-Net: layers at one resolution.

use burn::module::Module;
use burn::tensor::Device;

use super::plan::Plan;
use crate::blocks::{ConvNormAct, Ops, Residual};
use ctseg_base::Result;

/// A level of the encoder.
#[derive(Module, Debug)]
pub enum Level<const R: usize> {
    Plain(Vec<ConvNormAct<R>>),
    Residual(Vec<Residual<R>>),
}

/// A sequence of layers; the first one is strided.
pub(super) fn level<const R: usize>(
    plan: &Plan,
    index: usize,
    count: usize,
    [from, to]: [usize; 2],
    stride: &[usize],
    device: &Device,
) -> Vec<ConvNormAct<R>> {
    let one = vec![1; R - 2];
    (0..count)
        .map(|layer| {
            let (from, stride) = match layer {
                0 => (from, stride),
                _ => (to, one.as_slice()),
            };
            let kernel = &plan.kernels[index];
            plan.settings.layer([from, to], kernel, stride, device)
        })
        .collect()
}

impl<const R: usize> Level<R> {
    pub(super) fn compute<O: Ops<R>>(&self, ops: &O, mut x: O::Tensor) -> Result<O::Tensor> {
        match self {
            Self::Plain(layers) => ops.block(x, layers),
            Self::Residual(blocks) => {
                for block in blocks {
                    x = block.compute(ops, x)?;
                }
                Ok(x)
            }
        }
    }

    pub(super) fn folded(self) -> Self {
        match self {
            Self::Plain(layers) => {
                Self::Plain(layers.into_iter().map(ConvNormAct::folded).collect())
            }
            Self::Residual(blocks) => {
                Self::Residual(blocks.into_iter().map(Residual::folded).collect())
            }
        }
    }
}
