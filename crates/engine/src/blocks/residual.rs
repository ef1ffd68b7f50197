//! Residual blocks: He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, in the form of
//! ResNet-D (He et al., "Bag of Tricks", CVPR 2019), which is nnU-Net's `BasicBlockD`.

use burn::module::Module;
use burn::tensor::Device;

use super::layers::{Activation, ConvNormAct, LayerSettings};
use super::ops::Ops;
use ctseg_base::Result;

/// Two convolutions with a shortcut.
#[derive(Module, Debug)]
pub struct Residual<const R: usize> {
    /// Convolution, normalisation, activation; convolution, normalisation.
    pub layers: Vec<ConvNormAct<R>>,
    /// On the shortcut, if the number of channels changes: a 1×1 convolution and a normalisation.
    pub skip: Option<ConvNormAct<R>>,
    /// Stride of the first convolution; the shortcut uses average pooling instead.
    #[module(skip)]
    pub stride: Vec<usize>,
    /// After the addition.
    #[module(skip)]
    pub activation: Activation,
}

impl<const R: usize> Residual<R> {
    /// The second normalisation starts at zero, so that a new block is close to the identity (as nnU-Net's
    /// `init_last_bn_before_add_to_0`).
    pub fn new(
        channels: [usize; 2],
        kernel: &[usize],
        stride: &[usize],
        settings: LayerSettings,
        device: &Device,
    ) -> Self {
        let [from, to] = channels;
        let one = vec![1; R - 2];
        let activation = settings.activation;
        let first = settings.layer([from, to], kernel, stride, device);
        let mut second = settings.layer([to, to], kernel, &one, device);
        second.activation = None;
        second.norm = second.norm.map(|norm| norm.zero_initialised(to, device));
        let skip = (from != to).then(|| ConvNormAct {
            activation: None,
            ..settings.layer([from, to], &one, &one, device)
        });
        Self {
            layers: vec![first, second],
            skip,
            stride: stride.to_vec(),
            activation,
        }
    }

    pub fn compute<O: Ops<R>>(&self, ops: &O, x: O::Tensor) -> Result<O::Tensor> {
        let mut shortcut = x.clone();
        if self.stride.iter().any(|stride| *stride > 1) {
            shortcut = ops.mean_pool(shortcut, &self.stride)?;
        }
        if let Some(skip) = &self.skip {
            shortcut = ops.block(shortcut, std::slice::from_ref(skip))?;
        }
        let changed = ops.block(x, &self.layers)?;
        ops.add(changed, shortcut, self.activation)
    }

    /// See [`ConvNormAct::folded`].
    pub fn folded(self) -> Self {
        Self {
            layers: self.layers.into_iter().map(ConvNormAct::folded).collect(),
            skip: self.skip.map(ConvNormAct::folded),
            ..self
        }
    }
}
