//! Blocks by libtorch's own calls on the very tensors that Burn's modules hold, with libtorch's autograd:
//! Burn's autodiff computes a convolution's weight gradient as a convolution whose kernel is the image.

use burn::module::Param;
use burn::nn::{BatchNorm, InstanceNorm};
use burn::tensor::Tensor as BurnTensor;
use burn_tch::LibTorch;
use tch::{Kind, Tensor};

use super::ffi::{self, Mode, RawLayer};
use crate::error::{Error, Result};
use crate::tensors::blocks::{Conv, ConvNormAct, Engine, Norm, UpConv};
use crate::tensors::networks::{Network, Unet};

/// The engine of libtorch's tensors. They compute in the type of the tensor that goes in.
#[derive(Debug, Clone, Copy)]
pub(super) struct TorchOps {
    pub mode: Mode,
    /// Whether blocks are computed again on the way back instead of being kept.
    pub recompute: bool,
}

/// The tensor behind a Burn tensor on a libtorch device; both share their memory and gradient.
pub(super) fn native<const D: usize>(tensor: BurnTensor<D>) -> Result<Tensor> {
    let primitive = tensor.try_into_primitive::<LibTorch>();
    primitive
        .map(|primitive| primitive.tensor)
        .map_err(|error| {
            Error::invalid(format!("internal: weights are not on libtorch: {error:?}"))
        })
}

fn parameter<const D: usize>(param: &Param<BurnTensor<D>>) -> Result<Tensor> {
    native(param.val())
}

pub(super) fn failed(error: tch::TchError) -> Error {
    Error::invalid(format!("libtorch: {}", ffi::first_line(&error.to_string())))
}

/// Tensors of one layer; they must outlive the [`RawLayer`] made from them.
struct LayerTensors {
    weight: Tensor,
    bias: Option<Tensor>,
    /// gamma, beta, running mean, running variance
    norm: [Option<Tensor>; 4],
    norm_kind: i32,
    momentum: f64,
    epsilon: f64,
}

impl LayerTensors {
    fn of<const R: usize>(layer: &ConvNormAct<R>) -> Result<Self> {
        let mut tensors = Self {
            weight: parameter(&layer.conv.weight)?,
            bias: layer.conv.bias.as_ref().map(parameter).transpose()?,
            norm: [None, None, None, None],
            norm_kind: 0,
            momentum: 0.0,
            epsilon: 0.0,
        };
        match &layer.norm {
            Some(Norm::Batch(norm)) => tensors.take_batch(norm)?,
            Some(Norm::Instance(norm)) => tensors.take_instance(norm)?,
            None => {}
        }
        Ok(tensors)
    }

    fn take_batch(&mut self, norm: &BatchNorm) -> Result<()> {
        self.norm = [
            Some(parameter(&norm.gamma)?),
            Some(parameter(&norm.beta)?),
            Some(native(norm.running_mean.value())?),
            Some(native(norm.running_var.value())?),
        ];
        self.norm_kind = 1;
        (self.momentum, self.epsilon) = (norm.momentum, norm.epsilon);
        Ok(())
    }

    fn take_instance(&mut self, norm: &InstanceNorm) -> Result<()> {
        let (Some(gamma), Some(beta)) = (&norm.gamma, &norm.beta) else {
            return Err(Error::invalid(
                "internal: an InstanceNorm without gamma and beta",
            ));
        };
        self.norm = [Some(parameter(gamma)?), Some(parameter(beta)?), None, None];
        self.norm_kind = 2;
        self.epsilon = norm.epsilon;
        Ok(())
    }

    fn raw(&self, stride: &[usize], padding: &[usize], slope: f64) -> RawLayer {
        let pointer =
            |tensor: &Option<Tensor>| tensor.as_ref().map_or(std::ptr::null(), Tensor::as_ptr);
        let three = |values: &[usize]| {
            std::array::from_fn(|axis| values.get(axis).map_or(0, |value| *value as i64))
        };
        RawLayer {
            weight: self.weight.as_ptr(),
            bias: pointer(&self.bias),
            gamma: pointer(&self.norm[0]),
            beta: pointer(&self.norm[1]),
            mean: pointer(&self.norm[2]),
            variance: pointer(&self.norm[3]),
            norm: self.norm_kind,
            dimensions: stride.len() as i32,
            stride: three(stride),
            padding: three(padding),
            momentum: self.momentum,
            epsilon: self.epsilon,
            slope,
        }
    }
}

impl<const R: usize> Engine<R> for TorchOps {
    type Tensor = SharedTensor;

    fn block(&self, x: SharedTensor, layers: &[ConvNormAct<R>]) -> Result<SharedTensor> {
        let tensors: Vec<LayerTensors> =
            layers.iter().map(LayerTensors::of).collect::<Result<_>>()?;
        let raw: Vec<RawLayer> = tensors
            .iter()
            .zip(layers)
            .map(|(tensors, layer)| {
                let conv = &layer.conv;
                tensors.raw(&conv.stride, &conv.padding, layer.activation.slope())
            })
            .collect();
        ffi::conv_block(&x.0, &raw, self.mode, self.recompute).map(SharedTensor)
    }

    fn conv(&self, x: SharedTensor, conv: &Conv<R>) -> Result<SharedTensor> {
        let tensors = LayerTensors {
            weight: parameter(&conv.weight)?,
            bias: conv.bias.as_ref().map(parameter).transpose()?,
            norm: [None, None, None, None],
            norm_kind: 0,
            momentum: 0.0,
            epsilon: 0.0,
        };
        let raw = tensors.raw(&conv.stride, &conv.padding, 1.0);
        ffi::conv_block(&x.0, &[raw], self.mode, false).map(SharedTensor)
    }

    fn max_pool(&self, x: SharedTensor, factors: &[usize]) -> Result<SharedTensor> {
        let size: Vec<i64> = factors.iter().map(|factor| *factor as i64).collect();
        let (none, one) = (vec![0; size.len()], vec![1; size.len()]);
        let pooled = match size.len() {
            2 => {
                x.0.f_max_pool2d(&size[..], &size[..], &none[..], &one[..], false)
            }
            _ => {
                x.0.f_max_pool3d(&size[..], &size[..], &none[..], &one[..], false)
            }
        };
        pooled.map(SharedTensor).map_err(failed)
    }

    fn up(&self, x: SharedTensor, up: &UpConv<R>) -> Result<SharedTensor> {
        let kind = x.0.f_kind().map_err(failed)?;
        let weight = parameter(&up.weight)?.f_to_kind(kind).map_err(failed)?;
        let bias = parameter(&up.bias)?.f_to_kind(kind).map_err(failed)?;
        let factors: Vec<i64> = up.factors.iter().map(|factor| *factor as i64).collect();
        let (none, one) = (vec![0; factors.len()], vec![1; factors.len()]);
        let larger = match factors.len() {
            2 => x.0.f_conv_transpose2d(
                &weight,
                Some(&bias),
                &factors[..],
                &none[..],
                &none[..],
                1,
                &one[..],
            ),
            _ => x.0.f_conv_transpose3d(
                &weight,
                Some(&bias),
                &factors[..],
                &none[..],
                &none[..],
                1,
                &one[..],
            ),
        };
        larger.map(SharedTensor).map_err(failed)
    }

    fn join(&self, skip: SharedTensor, x: SharedTensor) -> Result<SharedTensor> {
        Tensor::f_cat(&[skip.0, x.0], 1)
            .map(SharedTensor)
            .map_err(failed)
    }

    fn dropout(&self, x: SharedTensor, probability: f64) -> Result<SharedTensor> {
        if probability == 0.0 || self.mode == Mode::Inference {
            return Ok(x);
        }
        x.0.f_dropout(probability, true)
            .map(SharedTensor)
            .map_err(failed)
    }
}

/// A libtorch tensor whose clones share memory and place in the graph.
#[derive(Debug)]
pub(super) struct SharedTensor(pub Tensor);

impl Clone for SharedTensor {
    fn clone(&self) -> Self {
        Self(self.0.shallow_clone())
    }
}

/// Logits of a batch, in `kind`.
///
/// # Shapes
/// As [`Network::forward`].
pub(super) fn forward(
    network: &Network,
    ops: TorchOps,
    input: &Tensor,
    kind: Kind,
) -> Result<Tensor> {
    match network {
        Network::Unet2d(network) => {
            slice_logits(network, ops, &input.f_squeeze_dim(2).map_err(failed)?, kind)
        }
        // The slices of each channel one after the other as channels.
        Network::Unet25d(network) => {
            slice_logits(network, ops, &input.f_flatten(1, 2).map_err(failed)?, kind)
        }
        Network::Unet3d(network) => {
            let input = channels_last(input, kind)?;
            Ok(network.forward(&ops, SharedTensor(input))?.0)
        }
    }
}

/// `slices`: (batch, channel, y, x); output: (batch, structure, 1, y, x)
fn slice_logits(network: &Unet<4>, ops: TorchOps, slices: &Tensor, kind: Kind) -> Result<Tensor> {
    let input = channels_last(slices, kind)?;
    let logits = network.forward(&ops, SharedTensor(input))?;
    logits.0.f_unsqueeze(2).map_err(failed)
}

/// `tensor` (batch, channel, space…) of `kind` with its channels side by side in memory.
pub(super) fn channels_last(tensor: &Tensor, kind: Kind) -> Result<Tensor> {
    let (to, from): (&[i64], &[i64]) = match tensor.dim() {
        4 => (&[0, 2, 3, 1], &[0, 3, 1, 2]),
        5 => (&[0, 2, 3, 4, 1], &[0, 4, 1, 2, 3]),
        _ => return tensor.f_to_kind(kind).map_err(failed),
    };
    let rows = tensor
        .f_to_kind(kind)
        .and_then(|tensor| tensor.f_permute(to))
        .and_then(|tensor| tensor.f_contiguous())
        .map_err(failed)?;
    rows.f_permute(from).map_err(failed)
}
