//! Blocks in Burn's operations, on any of its devices and with its autodiff.

use burn::nn::BatchNorm;
use burn::tensor::activation::{leaky_relu, relu, sigmoid};
use burn::tensor::module::{
    avg_pool2d, conv_transpose2d, conv_transpose3d, conv2d, conv3d, max_pool2d,
};
use burn::tensor::ops::{AvgPoolOptions, ConvOptions, ConvTransposeOptions, MaxPoolOptions};
use burn::tensor::{Distribution, Tensor};

use super::layers::{Activation, Conv, ConvNormAct, UpConv};
use super::norm::Norm;
use super::ops::Ops;
use ctseg_base::{Error, Result};

/// Operations on Burn's tensors.
pub struct BurnOps;

impl<const R: usize> Ops<R> for BurnOps {
    type Tensor = Tensor<R>;

    fn block(&self, mut x: Tensor<R>, layers: &[ConvNormAct<R>]) -> Result<Tensor<R>> {
        for layer in layers {
            x = self.conv(x, &layer.conv)?;
            x = match &layer.norm {
                // A frozen layer uses its running statistics; in training Burn would use the batch's.
                Some(Norm::Batch(norm))
                    if !layer.conv.weight.is_require_grad() && x.device().is_autodiff() =>
                {
                    by_running_statistics(norm, x)
                }
                Some(Norm::Batch(norm)) => norm.forward(x),
                Some(Norm::Instance(norm)) => norm.forward(x),
                Some(Norm::Group(norm)) => norm.forward(x),
                None => x,
            };
            if let Some(activation) = layer.activation {
                x = activated(x, activation);
            }
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
        let flat = |x, factors| max_pool2d(x, MaxPoolOptions::new(factors));
        pooled(x, factors, &flat, &|pairs| pairs.max_dim(2))
    }

    fn mean_pool(&self, x: Tensor<R>, factors: &[usize]) -> Result<Tensor<R>> {
        let flat = |x, factors| avg_pool2d(x, AvgPoolOptions::new(factors));
        pooled(x, factors, &flat, &|pairs| pairs.mean_dim(2))
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

    fn add(&self, a: Tensor<R>, b: Tensor<R>, activation: Activation) -> Result<Tensor<R>> {
        Ok(activated(a + b, activation))
    }

    fn sigmoid(&self, x: Tensor<R>) -> Result<Tensor<R>> {
        Ok(sigmoid(x))
    }

    fn multiply(&self, x: Tensor<R>, map: Tensor<R>) -> Result<Tensor<R>> {
        Ok(x * map)
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

fn activated<const R: usize>(x: Tensor<R>, activation: Activation) -> Tensor<R> {
    match activation {
        Activation::Relu => relu(x),
        Activation::LeakyRelu => leaky_relu(x, activation.slope()),
    }
}

/// Pooling. In two dimensions by `flat`. Burn has no 3D pooling: slices are pooled by `flat`, then across slices by
/// `across`, which reduces axis 2.
fn pooled<const R: usize>(
    x: Tensor<R>,
    factors: &[usize],
    flat: &dyn Fn(Tensor<4>, [usize; 2]) -> Tensor<4>,
    across: &dyn Fn(Tensor<4>) -> Tensor<4>,
) -> Result<Tensor<R>> {
    match (R, factors) {
        (4, [y, x_factor]) => Ok(ranked(flat(ranked(x), [*y, *x_factor]))),
        (5, [z, y, x_factor]) => {
            let [batch, channels, depth, height, width] = dims(&x)?;
            let planes = x.reshape([batch, channels * depth, height, width]);
            let planes = flat(planes, [*y, *x_factor]);
            let [_, _, height, width] = planes.dims();
            let pairs = planes.reshape([batch * channels, depth / z, *z, height * width]);
            let shape = [batch, channels, depth / z, height, width];
            Ok(across(pairs).reshape(to_rank::<R>(&shape)?))
        }
        _ => Err(no_such_rank(R)),
    }
}

/// Batch normalisation with running statistics.
fn by_running_statistics<const R: usize>(norm: &BatchNorm, x: Tensor<R>) -> Tensor<R> {
    let (mean, variance) = (norm.running_mean.value(), norm.running_var.value());
    let mut per_channel = [1; R];
    per_channel[1] = x.dims()[1];
    let scale = norm.gamma.val() / (variance + norm.epsilon).sqrt();
    let offset = norm.beta.val() - mean * scale.clone();
    x * scale.reshape(per_channel) + offset.reshape(per_channel)
}

/// Changes the static rank of a tensor. Callers check the ranks; missing axes (of length one) are inserted at the
/// end.
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
    values
        .to_vec()
        .try_into()
        .map_err(|_| Error::internal(format!("{} values for {N} spatial axes", values.len())))
}

fn no_such_rank(rank: usize) -> Error {
    Error::internal(format!("no blocks for tensors of rank {rank}"))
}
