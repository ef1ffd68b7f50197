//! Folding of batch normalisation into the preceding convolution: one memory pass less in inference.

use burn::module::Param;
use burn::tensor::Tensor;

use super::layers::{Conv, ConvNormAct};
use super::norm::Norm;

impl<const R: usize> ConvNormAct<R> {
    /// The layer for inference, with its batch normalisation (running statistics) folded into the convolution; layers
    /// without one are unchanged.
    pub fn folded(self) -> Self {
        let Some(Norm::Batch(norm)) = &self.norm else {
            return self;
        };
        let (mean, variance) = (norm.running_mean.value(), norm.running_var.value());
        let scale = norm.gamma.val() / (variance + norm.epsilon).sqrt();
        let mut offset = norm.beta.val() - mean * scale.clone();
        if let Some(bias) = &self.conv.bias {
            offset = offset + bias.val() * scale.clone();
        }
        let mut per_channel = [1; R];
        per_channel[0] = scale.dims()[0];
        let weight: Tensor<R> = self.conv.weight.val() * scale.reshape(per_channel);
        Self {
            conv: Conv {
                weight: Param::from_tensor(weight),
                bias: Some(Param::from_tensor(offset)),
                ..self.conv
            },
            norm: None,
            activation: self.activation,
        }
    }
}
