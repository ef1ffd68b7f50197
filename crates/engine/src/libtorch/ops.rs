//! Blocks as libtorch calls on the tensors of Burn's modules, with libtorch's autograd: Burn's autodiff computes a
//! convolution's weight gradient as a convolution whose kernel is the image.

use burn::module::Param;
use burn::nn::{BatchNorm, GroupNorm, InstanceNorm};
use burn::tensor::Tensor as BurnTensor;
use burn_tch::LibTorch;
use tch::{Kind, Tensor};

use super::error::libtorch_error;
use super::ffi::{self, Mode, RawLayer};
use crate::blocks::{Activation, Conv, ConvNormAct, Norm, Ops, UpConv};
use ctseg_base::{Error, Result};

/// Operations on libtorch tensors, in the type of the input tensor.
#[derive(Debug, Clone, Copy)]
pub(super) struct TorchOps {
    pub mode: Mode,
    /// Whether blocks are recomputed in the backward pass (gradient checkpointing).
    pub recompute: bool,
}

/// The libtorch tensor behind a Burn tensor; both share memory and gradient.
pub(super) fn native<const D: usize>(tensor: BurnTensor<D>) -> Result<Tensor> {
    let primitive = tensor.try_into_primitive::<LibTorch>();
    primitive
        .map(|primitive| primitive.tensor)
        .map_err(|error| Error::internal(format!("weights are not on libtorch: {error:?}")))
}

fn parameter<const D: usize>(param: &Param<BurnTensor<D>>) -> Result<Tensor> {
    native(param.val())
}

pub(super) fn torch_error(error: tch::TchError) -> Error {
    libtorch_error(&error.to_string())
}

type Affine = Option<Param<BurnTensor<1>>>;

/// Tensors of one layer; they must outlive the [`RawLayer`] made from them.
pub(super) struct LayerTensors {
    weight: Tensor,
    bias: Option<Tensor>,
    /// gamma, beta, running mean, running variance
    norm: [Option<Tensor>; 4],
    norm_kind: i32,
    groups: usize,
    momentum: f64,
    epsilon: f64,
}

impl LayerTensors {
    pub fn of<const R: usize>(layer: &ConvNormAct<R>) -> Result<Self> {
        let mut tensors = Self {
            weight: parameter(&layer.conv.weight)?,
            bias: layer.conv.bias.as_ref().map(parameter).transpose()?,
            norm: [None, None, None, None],
            norm_kind: 0,
            groups: 0,
            momentum: 0.0,
            epsilon: 0.0,
        };
        match &layer.norm {
            Some(Norm::Batch(norm)) => tensors.take_batch(norm)?,
            Some(Norm::Instance(norm)) => tensors.take_instance(norm)?,
            Some(Norm::Group(norm)) => tensors.take_group(norm)?,
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
        self.take_affine(&norm.gamma, &norm.beta)?;
        self.norm_kind = 2;
        self.epsilon = norm.epsilon;
        Ok(())
    }

    fn take_group(&mut self, norm: &GroupNorm) -> Result<()> {
        self.take_affine(&norm.gamma, &norm.beta)?;
        self.norm_kind = 3;
        (self.groups, self.epsilon) = (norm.num_groups, norm.epsilon);
        Ok(())
    }

    fn take_affine(&mut self, gamma: &Affine, beta: &Affine) -> Result<()> {
        let (Some(gamma), Some(beta)) = (gamma, beta) else {
            return Err(Error::internal("a normalisation without gamma and beta"));
        };
        self.norm = [Some(parameter(gamma)?), Some(parameter(beta)?), None, None];
        Ok(())
    }

    pub fn channels_out(&self) -> i64 {
        self.weight.size()[0]
    }

    /// # Errors
    /// More dimensions than the shim supports, or `padding` and `stride` of different lengths.
    pub fn raw(&self, stride: &[usize], padding: &[usize], slope: f64) -> Result<RawLayer> {
        if !(1..=3).contains(&stride.len()) || padding.len() != stride.len() {
            return Err(Error::internal(format!(
                "a convolution with strides {stride:?} and padding {padding:?}; expected 1 to 3 of each"
            )));
        }
        let pointer =
            |tensor: &Option<Tensor>| tensor.as_ref().map_or(std::ptr::null(), Tensor::as_ptr);
        let three = |values: &[usize]| {
            std::array::from_fn(|axis| values.get(axis).map_or(0, |value| *value as i64))
        };
        Ok(RawLayer {
            weight: self.weight.as_ptr(),
            bias: pointer(&self.bias),
            gamma: pointer(&self.norm[0]),
            beta: pointer(&self.norm[1]),
            mean: pointer(&self.norm[2]),
            variance: pointer(&self.norm[3]),
            norm: self.norm_kind,
            groups: self.groups as i32,
            dimensions: stride.len() as i32,
            stride: three(stride),
            padding: three(padding),
            momentum: self.momentum,
            epsilon: self.epsilon,
            slope,
        })
    }
}

impl<const R: usize> Ops<R> for TorchOps {
    type Tensor = SharedTensor;

    fn block(&self, x: SharedTensor, layers: &[ConvNormAct<R>]) -> Result<SharedTensor> {
        let tensors: Vec<LayerTensors> =
            layers.iter().map(LayerTensors::of).collect::<Result<_>>()?;
        let raw: Vec<RawLayer> = tensors
            .iter()
            .zip(layers)
            .map(|(tensors, layer)| {
                let conv = &layer.conv;
                tensors.raw(&conv.stride, &conv.padding, layer.slope())
            })
            .collect::<Result<_>>()?;
        let frozen = |layer: &LayerTensors| !layer.weight.requires_grad();
        if self.mode != Mode::Inference && tensors.iter().all(frozen) {
            // As in inference: running statistics are not updated, and nothing is saved for the backward pass.
            let _no_grad = tch::no_grad_guard();
            return ffi::conv_block(&x.0, &raw, Mode::Inference, false).map(SharedTensor);
        }
        if self.mode == Mode::Inference {
            // One by one, so that a layer's input is freed before the next layer allocates.
            return raw.iter().try_fold(x, |x, layer| {
                let layer = std::slice::from_ref(layer);
                ffi::conv_block(&x.0, layer, self.mode, false).map(SharedTensor)
            });
        }
        ffi::conv_block(&x.0, &raw, self.mode, self.recompute).map(SharedTensor)
    }

    fn conv(&self, x: SharedTensor, conv: &Conv<R>) -> Result<SharedTensor> {
        let tensors = LayerTensors {
            weight: parameter(&conv.weight)?,
            bias: conv.bias.as_ref().map(parameter).transpose()?,
            norm: [None, None, None, None],
            norm_kind: 0,
            groups: 0,
            momentum: 0.0,
            epsilon: 0.0,
        };
        let raw = tensors.raw(&conv.stride, &conv.padding, 1.0)?;
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
        pooled.map(SharedTensor).map_err(torch_error)
    }

    fn mean_pool(&self, x: SharedTensor, factors: &[usize]) -> Result<SharedTensor> {
        let size: Vec<i64> = factors.iter().map(|factor| *factor as i64).collect();
        let pooled = match size.len() {
            2 => {
                x.0.f_avg_pool2d(&size[..], &size[..], [0, 0], false, true, None)
            }
            _ => mean_of_windows(&x.0, &size),
        };
        pooled.map(SharedTensor).map_err(torch_error)
    }

    fn up(&self, x: SharedTensor, up: &UpConv<R>) -> Result<SharedTensor> {
        let kind = x.0.f_kind().map_err(torch_error)?;
        let weight = parameter(&up.weight)?
            .f_to_kind(kind)
            .map_err(torch_error)?;
        let bias = parameter(&up.bias)?.f_to_kind(kind).map_err(torch_error)?;
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
        larger.map(SharedTensor).map_err(torch_error)
    }

    fn join(&self, skip: SharedTensor, x: SharedTensor) -> Result<SharedTensor> {
        Tensor::f_cat(&[skip.0, x.0], 1)
            .map(SharedTensor)
            .map_err(torch_error)
    }

    /// In inference, `skip` is copied into its place and freed before `x` is computed: a third less memory at the
    /// finest level, where a network needs the most.
    fn up_joined(
        &self,
        skip: SharedTensor,
        x: SharedTensor,
        up: &UpConv<R>,
    ) -> Result<SharedTensor> {
        if self.mode != Mode::Inference {
            let x = self.up(x, up)?;
            return <Self as Ops<R>>::join(self, skip, x);
        }
        let size = skip.0.size();
        let channels = up.bias.dims()[0] as i64;
        let joined = empty_channels_last(&skip.0, size[1] + channels)?;
        copied(&joined, 0, &skip.0)?;
        drop(skip);
        copied(&joined, size[1], &self.up(x, up)?.0)?;
        Ok(SharedTensor(joined))
    }

    fn add(
        &self,
        a: SharedTensor,
        b: SharedTensor,
        activation: Activation,
    ) -> Result<SharedTensor> {
        let mut sum = a.0.f_add(&b.0).map_err(torch_error)?;
        // In place: the backward pass needs only the output. libtorch's default slope is 0.01 too.
        let activated = match activation {
            Activation::Relu => sum.f_relu_(),
            Activation::LeakyRelu => sum.f_leaky_relu_(),
        };
        activated.map(SharedTensor).map_err(torch_error)
    }

    fn sigmoid(&self, x: SharedTensor) -> Result<SharedTensor> {
        x.0.f_sigmoid().map(SharedTensor).map_err(torch_error)
    }

    fn multiply(&self, x: SharedTensor, map: SharedTensor) -> Result<SharedTensor> {
        x.0.f_mul(&map.0).map(SharedTensor).map_err(torch_error)
    }

    fn dropout(&self, x: SharedTensor, probability: f64) -> Result<SharedTensor> {
        if probability == 0.0 || self.mode == Mode::Inference {
            return Ok(x);
        }
        x.0.f_dropout(probability, true)
            .map(SharedTensor)
            .map_err(torch_error)
    }
}

/// An uninitialised channels-last tensor like `model`, with `channels` channels.
fn empty_channels_last(model: &Tensor, channels: i64) -> Result<Tensor> {
    let size = model.size();
    let rank = size.len() as i64;
    let mut last = vec![size[0]];
    last.extend(&size[2..]);
    last.push(channels);
    let mut order = vec![0, rank - 1];
    order.extend(1..rank - 1);
    Tensor::f_empty(&last[..], (model.kind(), model.device()))
        .and_then(|tensor| tensor.f_permute(&order[..]))
        .map_err(torch_error)
}

/// Copies `from` into the channels of `to`, starting at `first`.
fn copied(to: &Tensor, first: i64, from: &Tensor) -> Result<()> {
    let count = from.size()[1];
    to.f_narrow(1, first, count)
        .and_then(|mut part| part.f_copy_(from))
        .map_err(torch_error)
}

/// 3D average pooling: libtorch's own has no bf16 on CPUs and does not keep the channels-last layout.
fn mean_of_windows(x: &Tensor, factors: &[i64]) -> std::result::Result<Tensor, tch::TchError> {
    let size = x.size();
    let mut windows = vec![size[0]];
    for (side, factor) in size[2..].iter().zip(factors) {
        windows.extend([side / factor, *factor]);
    }
    windows.push(size[1]);
    x.f_permute([0, 2, 3, 4, 1])?
        .f_reshape(&windows[..])?
        .f_mean_dim(&[2i64, 4, 6][..], false, None)?
        .f_permute([0, 4, 1, 2, 3])
}

/// A libtorch tensor whose clones share memory and graph node.
#[derive(Debug)]
pub(super) struct SharedTensor(pub Tensor);

impl Clone for SharedTensor {
    fn clone(&self) -> Self {
        Self(self.0.shallow_clone())
    }
}

/// Converts `tensor` (batch, channel, space…) to `kind` and the channels-last layout.
pub(super) fn channels_last(tensor: &Tensor, kind: Kind) -> Result<Tensor> {
    let (to, from): (&[i64], &[i64]) = match tensor.dim() {
        4 => (&[0, 2, 3, 1], &[0, 3, 1, 2]),
        5 => (&[0, 2, 3, 4, 1], &[0, 4, 1, 2, 3]),
        _ => return tensor.f_to_kind(kind).map_err(torch_error),
    };
    let rows = tensor
        .f_to_kind(kind)
        .and_then(|tensor| tensor.f_permute(to))
        .and_then(|tensor| tensor.f_contiguous())
        .map_err(torch_error)?;
    rows.f_permute(from).map_err(torch_error)
}
