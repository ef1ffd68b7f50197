//! Blocks by Burn's own operations, on any of its devices and under its autodiff.

use burn::tensor::activation::{leaky_relu, relu};
use burn::tensor::module::{conv_transpose2d, conv_transpose3d, conv2d, conv3d, max_pool2d};
use burn::tensor::ops::{ConvOptions, ConvTransposeOptions, MaxPoolOptions};
use burn::tensor::{Distribution, Tensor};

use super::{Activation, Conv, ConvNormAct, Engine, Norm, UpConv};
use crate::error::{Error, Result};

/// The engine of Burn's tensors.
pub struct BurnOps;

impl<const R: usize> Engine<R> for BurnOps {
    type Tensor = Tensor<R>;

    fn block(&self, mut x: Tensor<R>, layers: &[ConvNormAct<R>]) -> Result<Tensor<R>> {
        for layer in layers {
            x = self.conv(x, &layer.conv)?;
            x = match &layer.norm {
                Some(Norm::Batch(norm)) => norm.forward(x),
                Some(Norm::Instance(norm)) => norm.forward(x),
                None => x,
            };
            x = match layer.activation {
                Activation::Relu => relu(x),
                Activation::LeakyRelu => leaky_relu(x, Activation::LeakyRelu.slope()),
            };
        }
        Ok(x)
    }

    fn conv(&self, x: Tensor<R>, conv: &Conv<R>) -> Result<Tensor<R>> {
        let weight = conv.weight.val();
        let bias = conv.bias.as_ref().map(|bias| bias.val());
        let (stride, padding) = (&conv.stride, &conv.padding);
        match R {
            4 => {
                let options =
                    ConvOptions::new(array::<2>(stride)?, array::<2>(padding)?, [1, 1], 1);
                Ok(ranked(conv2d(ranked(x), ranked(weight), bias, options)))
            }
            5 => {
                let options =
                    ConvOptions::new(array::<3>(stride)?, array::<3>(padding)?, [1, 1, 1], 1);
                Ok(ranked(conv3d(ranked(x), ranked(weight), bias, options)))
            }
            _ => Err(no_such_rank(R)),
        }
    }

    fn max_pool(&self, x: Tensor<R>, factors: &[usize]) -> Result<Tensor<R>> {
        match (R, factors) {
            (4, [y, x_factor]) => Ok(ranked(pooled(ranked(x), [*y, *x_factor]))),
            (5, [z, y, x_factor]) => {
                // Burn has no pooling in three dimensions: within slices first, then across them.
                let [batch, channels, depth, height, width] = dims(&x)?;
                let planes = x.reshape([batch, channels * depth, height, width]);
                let planes = pooled(planes, [*y, *x_factor]);
                let [_, _, height, width] = planes.dims();
                let pairs = planes.reshape([batch * channels, depth / z, *z, height * width]);
                let largest = pairs.max_dim(2);
                let shape = [batch, channels, depth / z, height, width];
                Ok(largest.reshape(to_rank::<R>(&shape)?))
            }
            _ => Err(no_such_rank(R)),
        }
    }

    fn up(&self, x: Tensor<R>, up: &UpConv<R>) -> Result<Tensor<R>> {
        let (weight, bias) = (up.weight.val(), Some(up.bias.val()));
        match R {
            4 => {
                let options =
                    ConvTransposeOptions::new(array::<2>(&up.factors)?, [0, 0], [0, 0], [1, 1], 1);
                let x = conv_transpose2d(ranked(x), ranked(weight), bias, options);
                Ok(ranked(x))
            }
            5 => {
                let options = ConvTransposeOptions::new(
                    array::<3>(&up.factors)?,
                    [0, 0, 0],
                    [0, 0, 0],
                    [1, 1, 1],
                    1,
                );
                let x = conv_transpose3d(ranked(x), ranked(weight), bias, options);
                Ok(ranked(x))
            }
            _ => Err(no_such_rank(R)),
        }
    }

    fn join(&self, skip: Tensor<R>, x: Tensor<R>) -> Result<Tensor<R>> {
        Ok(Tensor::cat(vec![skip, x], 1))
    }

    fn dropout(&self, x: Tensor<R>, probability: f64) -> Result<Tensor<R>> {
        if probability == 0.0 || !x.device().is_autodiff() {
            return Ok(x);
        }
        let keep = 1.0 - probability;
        let mask = Tensor::<R>::random(x.dims(), Distribution::Bernoulli(keep), &x.device());
        Ok(x * mask / keep)
    }
}

fn pooled(x: Tensor<4>, factors: [usize; 2]) -> Tensor<4> {
    max_pool2d(x, MaxPoolOptions::new(factors))
}

/// The same tensor under another name for its rank. Ranks are compared where this is called; a tensor of
/// fewer axes gets the missing ones (of one element) in the middle.
fn ranked<const A: usize, const B: usize>(x: Tensor<A>) -> Tensor<B> {
    let dims = x.dims();
    let mut shape = [1; B];
    let same = A.min(B);
    shape[..same].copy_from_slice(&dims[..same]);
    x.reshape(shape)
}

fn dims<const R: usize>(x: &Tensor<R>) -> Result<[usize; 5]> {
    x.dims().to_vec().try_into().map_err(|_| no_such_rank(R))
}

fn to_rank<const R: usize>(shape: &[usize]) -> Result<[usize; R]> {
    shape.to_vec().try_into().map_err(|_| no_such_rank(R))
}

fn array<const N: usize>(values: &[usize]) -> Result<[usize; N]> {
    values.to_vec().try_into().map_err(|_| {
        Error::invalid(format!(
            "internal: {} values for {N} spatial axes",
            values.len()
        ))
    })
}

fn no_such_rank(rank: usize) -> Error {
    Error::invalid(format!("internal: no blocks for tensors of rank {rank}"))
}
