//! U-Net in two and three dimensions: Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for
//! Biomedical Image Segmentation", MICCAI 2015; Çiçek et al., "3D U-Net", MICCAI 2016; with padded
//! convolutions and normalisation, and in three dimensions nnU-Net's choices (InstanceNorm, LeakyReLU,
//! strided convolutions). Its encoder can be a residual one ([`super::resenc`]), its skips can be gated, and
//! in training its coarser levels can give logits too (deep supervision: Lee et al., AISTATS 2015).

use burn::module::Module;
use burn::tensor::Device;

use super::level::{Level, level};
use super::plan::Plan;
use super::resenc;
use crate::blocks::{Conv, ConvNormAct, Gate, Ops, UpConv};
use ctseg_base::Result;

/// First logit of every voxel: structures are rare, and a network that starts out at one half everywhere
/// spends its first epochs on learning just that (Lin et al., "Focal Loss", ICCV 2017, section 3.3; a
/// probability of 0.05).
const RARE_LOGIT: f64 = -3.0;

/// The network: an encoder whose levels halve the image, a decoder of transposed convolutions, skip
/// concatenations and convolutions, and a convolution of one voxel to logits.
#[derive(Module, Debug)]
pub struct Unet<const R: usize> {
    /// Before the first level of a residual encoder.
    stem: Vec<ConvNormAct<R>>,
    encoder: Vec<Level<R>>,
    /// Deepest first, as all of the decoder.
    up: Vec<UpConv<R>>,
    /// One for each skip, or none.
    gates: Vec<Gate<R>>,
    decoder: Vec<Vec<ConvNormAct<R>>>,
    head: Conv<R>,
    /// Of coarser levels, finest first; for training.
    heads: Vec<Conv<R>>,
    /// What lies before each level: factors of a max-pooling, or nothing.
    #[module(skip)]
    pools: Vec<Option<Vec<usize>>>,
    dropout: f64,
}

/// What a pass gives beside the finest logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extras {
    /// The logits of coarser levels, where the network has heads for them.
    pub deep: bool,
    /// The maps of the attention gates.
    pub maps: bool,
    /// What the head makes logits of, in place of the finest logits.
    pub features: bool,
}

impl Extras {
    /// What training asks for.
    pub fn training() -> Self {
        Self {
            deep: true,
            ..Self::default()
        }
    }

    /// What a look at attention gates asks for.
    pub fn attention() -> Self {
        Self {
            maps: true,
            ..Self::default()
        }
    }
}

/// What a pass gave.
#[derive(Debug, Clone)]
pub struct PassOutputs<T> {
    /// Finest first; each half the size of the one before (or what the levels' strides make of it).
    pub logits: Vec<T>,
    /// Of the gates, finest first, one channel each with values in (0, 1).
    pub maps: Vec<T>,
}

impl<const R: usize> Unet<R> {
    /// Fresh weights.
    pub(super) fn new(plan: &Plan, channels: usize, structures: usize, device: &Device) -> Self {
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
        // The level above the bottleneck would count for nothing (nnU-Net's weight of 0).
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

    /// Logits of `input` on any engine, and what else is wanted.
    ///
    /// # Shapes
    /// - `input`: (batch, channel, space…), sides multiples of [`super::NetworkConfig::multiple`]
    /// - output: (batch, structure, space…), of coarser levels with less space
    pub fn outputs<O: Ops<R>>(
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
            // Levels are counted from the finest, which has the head of its own.
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

    /// The finest logits alone.
    pub fn forward<O: Ops<R>>(&self, ops: &O, input: O::Tensor) -> Result<O::Tensor> {
        let mut outputs = self.outputs(ops, input, Extras::default())?;
        Ok(outputs.logits.swap_remove(0))
    }

    /// The bottleneck, and the levels above it.
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

    /// How many logits a pass in training gives.
    pub(super) fn scales(&self) -> usize {
        1 + self.heads.len()
    }

    /// The convolution that gives the finest logits.
    pub(crate) fn head(&self) -> &Conv<R> {
        &self.head
    }

    /// How many attention gates there are.
    pub(super) fn gates(&self) -> usize {
        self.gates.len()
    }

    /// The network as it is used after training, see [`ConvNormAct::folded`].
    pub fn folded(self) -> Self {
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
