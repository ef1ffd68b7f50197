//! U-Net in two and three dimensions: Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical
//! Image Segmentation", MICCAI 2015; Çiçek et al., "3D U-Net", MICCAI 2016; with padded convolutions and
//! normalisation, and in three dimensions nnU-Net's choices (InstanceNorm, LeakyReLU, strided convolutions). Options:
//! a residual encoder ([`super::resenc`]), attention gates on skip connections, and deep supervision (Lee et al.,
//! AISTATS 2015).

use burn::module::Module;
use burn::tensor::Device;

use super::level::{Level, level};
use super::module::{
    Extras, HeadTensors, NetworkModule, PassOutputs, Ranks, on_slices, on_volumes,
};
use super::plan::Plan;
use super::resenc;
use crate::blocks::{Conv, ConvNormAct, Gate, Ops, UpConv};
use ctseg_base::Result;

/// Initial bias of the head: structures are rare, and a network that starts at a probability of 0.5 spends its first
/// epochs on unlearning it (Lin et al., "Focal Loss", ICCV 2017, section 3.3; a probability of 0.05).
const RARE_LOGIT: f64 = -3.0;

/// An encoder whose levels downsample the image; a decoder of transposed convolutions, skip concatenations and
/// convolutions; and a 1×1 convolution to logits.
#[derive(Module, Debug)]
pub struct Unet<const R: usize> {
    /// Before the first level; residual encoders only.
    stem: Vec<ConvNormAct<R>>,
    encoder: Vec<Level<R>>,
    /// Deepest first, as in the whole decoder.
    up: Vec<UpConv<R>>,
    /// One per skip connection, or empty.
    gates: Vec<Gate<R>>,
    decoder: Vec<Vec<ConvNormAct<R>>>,
    head: Conv<R>,
    /// Heads of coarser levels, finest first; training only.
    heads: Vec<Conv<R>>,
    /// Max pooling factors before each level, if any.
    #[module(skip)]
    pools: Vec<Option<Vec<usize>>>,
    dropout: f64,
}

/// A U-Net of either rank.
pub trait UnetModule: NetworkModule {
    /// Number of spatial axes.
    const DIMENSIONS: usize;

    /// A newly initialised network.
    fn of_plan(plan: &Plan, channels: usize, structures: usize, device: &Device) -> Self;
}

macro_rules! unet_module {
    ($rank:literal, $on_rank:ident) => {
        impl UnetModule for Unet<$rank> {
            const DIMENSIONS: usize = $rank - 2;

            fn of_plan(plan: &Plan, channels: usize, structures: usize, device: &Device) -> Self {
                Self::new(plan, channels, structures, device)
            }
        }

        impl NetworkModule for Unet<$rank> {
            fn pass<E: Ranks>(
                &self,
                ops: &E,
                input: E::Input,
                wanted: Extras,
            ) -> Result<PassOutputs<E::Output>> {
                $on_rank::<E>(input, |x| self.outputs(ops, x, wanted))
            }

            fn head_size(&self) -> [usize; 2] {
                self.head.size()
            }

            fn head(&self) -> Option<HeadTensors> {
                Some(HeadTensors::from(&self.head))
            }

            fn scales(&self) -> usize {
                1 + self.heads.len()
            }

            fn gates(&self) -> usize {
                self.gates.len()
            }

            fn folded(self) -> Self {
                self.with_folded_norms()
            }
        }
    };
}

unet_module!(4, on_slices);
unet_module!(5, on_volumes);

impl<const R: usize> Unet<R> {
    /// A newly initialised network.
    fn new(plan: &Plan, channels: usize, structures: usize, device: &Device) -> Self {
        let one = vec![1; R - 2];
        let widths = &plan.widths;
        let head =
            |width: usize| Conv::new([width, structures], &one, &one, Some(RARE_LOGIT), device);
        let (stem, encoder) = match &plan.blocks {
            Some(blocks) => (
                level(plan, 0, 1, [channels, widths[0]], &one, device),
                resenc::encoder(plan, blocks, device),
            ),
            None => (Vec::new(), plain_encoder(plan, channels, device)),
        };
        let deeper = (1..widths.len()).rev();
        let up = |index: usize| {
            UpConv::new(
                [widths[index], widths[index - 1]],
                &plan.strides[index],
                device,
            )
        };
        let merged = |index: usize| {
            let width = widths[index - 1];
            level(
                plan,
                index - 1,
                plan.decoder_convolutions[index - 1],
                [2 * width, width],
                &one,
                device,
            )
        };
        // The level above the bottleneck has weight 0 in nnU-Net.
        let deep = match plan.deep_supervision {
            true => widths.len().saturating_sub(2),
            false => 0,
        };
        Self {
            stem,
            encoder,
            up: deeper.clone().map(up).collect(),
            gates: match plan.attention {
                true => deeper
                    .clone()
                    .map(|index| Gate::new(widths[index - 1], plan.settings, device))
                    .collect(),
                false => Vec::new(),
            },
            decoder: deeper.map(merged).collect(),
            head: head(widths[0]),
            heads: (1..deep.max(1)).map(|index| head(widths[index])).collect(),
            pools: (0..widths.len())
                .map(|index| (plan.pool && index > 0).then(|| plan.strides[index].clone()))
                .collect(),
            dropout: plan.dropout,
        }
    }

    /// The logits of `input` on any engine, and the additional `wanted` outputs.
    ///
    /// # Shapes
    /// - `input`: (batch, channel, space…), sides multiples of [`super::NetworkConfig::multiple`]
    /// - output: (batch, structure, space…); coarser levels have a smaller space
    fn outputs<O: Ops<R>>(
        &self,
        ops: &O,
        input: O::Tensor,
        wanted: Extras,
    ) -> Result<PassOutputs<O::Tensor>> {
        let (mut x, mut skips) = self.encoded(ops, input)?;
        let (mut logits, mut maps) = (Vec::new(), Vec::new());
        for (index, (up, layers)) in self.up.iter().zip(&self.decoder).enumerate() {
            x = match (skips.pop(), self.gates.get(index)) {
                (Some(skip), None) => ops.up_joined(skip, x, up)?,
                (Some(skip), Some(gate)) => {
                    let x = ops.up(x, up)?;
                    let (passed, map) = gate.compute(ops, skip, x.clone())?;
                    if wanted.maps {
                        maps.push(map);
                    }
                    ops.join(passed, x)?
                }
                (None, _) => ops.up(x, up)?,
            };
            x = ops.block(x, layers)?;
            // Index from the finest level, which has its own head.
            let coarser = self.up.len() - 1 - index;
            let head = coarser.checked_sub(1).and_then(|at| self.heads.get(at));
            if let (Some(head), true) = (head, wanted.deep) {
                logits.push(ops.conv(x.clone(), head)?);
            }
        }
        logits.push(match wanted.features {
            true => x,
            false => ops.conv(x, &self.head)?,
        });
        logits.reverse();
        maps.reverse();
        Ok(PassOutputs { logits, maps })
    }

    /// The bottleneck's output, and the skips of the levels above.
    fn encoded<O: Ops<R>>(&self, ops: &O, input: O::Tensor) -> Result<(O::Tensor, Vec<O::Tensor>)> {
        let mut skips = Vec::with_capacity(self.encoder.len());
        let mut x = input;
        if !self.stem.is_empty() {
            x = ops.block(x, &self.stem)?;
        }
        for (index, (level, pool)) in self.encoder.iter().zip(&self.pools).enumerate() {
            if let Some(factors) = pool {
                x = ops.max_pool(x, factors)?;
            }
            x = level.compute(ops, x)?;
            if index + 1 < self.encoder.len() {
                skips.push(x.clone());
            }
        }
        Ok((ops.dropout(x, self.dropout)?, skips))
    }

    /// The network for inference, see [`ConvNormAct::folded`].
    fn with_folded_norms(self) -> Self {
        let fold =
            |layers: Vec<ConvNormAct<R>>| layers.into_iter().map(ConvNormAct::folded).collect();
        Self {
            stem: fold(self.stem),
            encoder: self.encoder.into_iter().map(Level::folded).collect(),
            gates: self.gates.into_iter().map(Gate::folded).collect(),
            decoder: self.decoder.into_iter().map(fold).collect(),
            ..self
        }
    }
}

fn plain_encoder<const R: usize>(plan: &Plan, channels: usize, device: &Device) -> Vec<Level<R>> {
    let one = vec![1; R - 2];
    let inputs = std::iter::once(&channels).chain(&plan.widths);
    let levels = inputs.zip(&plan.widths).enumerate();
    levels
        .map(|(index, (from, to))| {
            let stride = if plan.pool {
                &one
            } else {
                &plan.strides[index]
            };
            Level::Plain(level(
                plan,
                index,
                plan.convolutions[index],
                [*from, *to],
                stride,
                device,
            ))
        })
        .collect()
}
