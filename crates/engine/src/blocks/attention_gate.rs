//! Attention gates on skip connections: Oktay et al., "Attention U-Net: Learning Where to Look for the Pancreas",
//! MIDL 2018, with the gating signal on the grid of the skip, as in MONAI's `AttentionBlock`.

use burn::module::Module;
use burn::tensor::Device;

use super::layers::{Activation, Conv, ConvNormAct, LayerSettings};
use super::norm::NormKind;
use super::ops::Ops;
use ctseg_base::Result;

/// An attention gate: weights each voxel of a skip connection.
#[derive(Module, Debug)]
pub struct Gate<const R: usize> {
    /// Projection of the gating signal from the level below.
    pub signal: ConvNormAct<R>,
    /// Projection of the skip.
    pub skip: ConvNormAct<R>,
    /// From both projections to one channel.
    pub map: ConvNormAct<R>,
}

impl<const R: usize> Gate<R> {
    /// For a skip and a gating signal of `channels` each.
    pub fn new(channels: usize, settings: LayerSettings, device: &Device) -> Self {
        let one = vec![1; R - 2];
        let inner = (channels / 2).max(1);
        let projection = || ConvNormAct {
            activation: None,
            ..settings.layer([channels, inner], &one, &one, device)
        };
        // Normalising a map by its own sample would make every map half open; batch statistics do not.
        let map = match settings.norm {
            NormKind::Batch => settings.layer([inner, 1], &one, &one, device),
            NormKind::Instance | NormKind::Group => ConvNormAct {
                conv: Conv::new([inner, 1], &one, &one, Some(0.0), device),
                norm: None,
                activation: None,
            },
        };
        Self {
            signal: projection(),
            skip: projection(),
            map: ConvNormAct {
                activation: None,
                ..map
            },
        }
    }

    /// The skip times its map, and the map itself (one channel, values in (0, 1)).
    pub fn compute<O: Ops<R>>(
        &self,
        ops: &O,
        skip: O::Tensor,
        signal: O::Tensor,
    ) -> Result<(O::Tensor, O::Tensor)> {
        let signal = ops.block(signal, std::slice::from_ref(&self.signal))?;
        let seen = ops.block(skip.clone(), std::slice::from_ref(&self.skip))?;
        let both = ops.add(signal, seen, Activation::Relu)?;
        let map = ops.sigmoid(ops.block(both, std::slice::from_ref(&self.map))?)?;
        Ok((ops.multiply(skip, map.clone())?, map))
    }

    /// See [`ConvNormAct::folded`].
    pub fn folded(self) -> Self {
        Self {
            signal: self.signal.folded(),
            skip: self.skip.folded(),
            map: self.map.folded(),
        }
    }
}
