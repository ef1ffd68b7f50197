//! Network settings of a recipe, and their defaults.

use serde::{Deserialize, Serialize};

use super::plan::Plan;
use crate::blocks::{Activation, LayerSettings, NormKind};
use ctseg_base::{Error, Result};

/// Settings of a U-Net of any kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnetConfig {
    /// Channels per level, finest first; the last level is the bottleneck. Their number is the depth.
    #[serde(default = "default_widths")]
    pub widths: Vec<usize>,
    /// Dropout probability at the bottleneck; 0 disables it.
    #[serde(default)]
    pub dropout: f64,
    /// `batch` (default for a plain 2D U-Net), `instance` (default for others, whose batches are small) or `group`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm: Option<NormKind>,
    /// Number of groups for `norm = "group"`; default 8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<usize>,
    /// `relu` (default for a plain 2D U-Net) or `leaky_relu` (default for others).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
    /// `pool` (default for a plain 2D U-Net) or `stride` (default for others).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downsampling: Option<Downsampling>,
    /// Kernel size of each level's convolutions along (z,) y, x; default 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernels: Option<Vec<Vec<usize>>>,
    /// Downsampling factor of each level relative to the level above, along (z,) y, x; default 2, and 1 for the first
    /// level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strides: Option<Vec<Vec<usize>>>,
    /// Residual encoders only: blocks per level; default 1, 3, 4, 6, 6, 6, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<Vec<usize>>,
    /// Plain encoders only: convolutions per level; default 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub convolutions: Option<Vec<usize>>,
    /// Convolutions per level of the decoder, finest first; default 2, or 1 with a residual encoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoder_convolutions: Option<Vec<usize>>,
    /// `unet2_5d` (default 2) and `resenc2d` (default 0): neighbouring slices on each side that are also input
    /// channels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub neighbours: Option<usize>,
    /// Whether skip connections have attention gates.
    #[serde(default, skip_serializing_if = "is_false")]
    pub attention: bool,
    /// Whether coarser levels of the decoder also give logits in training.
    #[serde(default, skip_serializing_if = "is_false")]
    pub deep_supervision: bool,
}

/// How a level downsamples the one above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Downsampling {
    /// Max pooling.
    Pool,
    /// The level's first convolution is strided.
    Stride,
}

fn default_widths() -> Vec<usize> {
    vec![32, 64, 128, 256, 512]
}

#[allow(clippy::trivially_copy_pass_by_ref)] // signature required by serde
fn is_false(value: &bool) -> bool {
    !value
}

impl Default for UnetConfig {
    fn default() -> Self {
        Self {
            widths: default_widths(),
            dropout: 0.0,
            norm: None,
            groups: None,
            activation: None,
            downsampling: None,
            kernels: None,
            strides: None,
            blocks: None,
            convolutions: None,
            decoder_convolutions: None,
            neighbours: None,
            attention: false,
            deep_supervision: false,
        }
    }
}

/// Default number of groups of a group normalisation.
const GROUPS: usize = 8;

/// Maximum number of levels; more would halve any patch to nothing.
const MAX_LEVELS: usize = 10;

/// Default blocks per level of a residual encoder (nnU-Net's `ResEnc` presets).
const BLOCKS: [usize; MAX_LEVELS] = [1, 3, 4, 6, 6, 6, 6, 6, 6, 6];

/// Maximum side of kernels and strides.
const MAX_KERNEL: usize = 9;
const MAX_STRIDE: usize = 4;

/// Default convolutions per level of encoder and decoder, as in the papers.
const LAYERS: usize = 2;

/// nnU-Net's `n_conv_per_stage_decoder` with a residual encoder.
const LAYERS_PER_RESIDUAL_DECODER_LEVEL: usize = 1;

/// Maximum convolutions per level.
const MAX_LAYERS: usize = 16;

/// Maximum blocks per level, and channels.
const MAX_BLOCKS: usize = 64;
const MAX_CHANNELS: usize = 1 << 14;

/// One number per level, or `default` for all levels.
fn counts(
    key: &str,
    given: Option<&Vec<usize>>,
    levels: usize,
    default: usize,
) -> Result<Vec<usize>> {
    let Some(given) = given else {
        return Ok(vec![default; levels]);
    };
    let fits = given.len() == levels && given.iter().all(|count| (1..=MAX_LAYERS).contains(count));
    if !fits {
        return Err(Error::invalid(format!(
            "{key} = {given:?} is invalid; expected {levels} numbers from 1 to {MAX_LAYERS}"
        )));
    }
    Ok(given.clone())
}

impl UnetConfig {
    /// The plan of a network on `axes` axes; `residual` encoders follow nnU-Net's defaults in 2D too.
    ///
    /// # Errors
    /// Invalid values.
    pub(super) fn plan(&self, axes: usize, residual: bool) -> Result<Plan> {
        self.check_numbers()?;
        let plain_slices = axes == 2 && !residual;
        let (norm, activation, downsampling) = match plain_slices {
            true => (NormKind::Batch, Activation::Relu, Downsampling::Pool),
            false => (
                NormKind::Instance,
                Activation::LeakyRelu,
                Downsampling::Stride,
            ),
        };
        let norm = self.norm.unwrap_or(norm);
        let pool = self.downsampling.unwrap_or(downsampling) == Downsampling::Pool;
        if residual && pool {
            return Err(Error::invalid(
                "network.downsampling = \"pool\" is for plain U-Nets; residual encoders use strides; remove it",
            ));
        }
        Ok(Plan {
            widths: self.widths.clone(),
            kernels: self.checked_kernels(axes)?,
            strides: self.checked_strides(axes)?,
            settings: LayerSettings {
                norm,
                groups: self.checked_groups(norm)?,
                activation: self.activation.unwrap_or(activation),
            },
            pool,
            blocks: self.checked_blocks(residual)?,
            convolutions: self.checked_convolutions(residual)?,
            decoder_convolutions: self.checked_decoder_convolutions(residual)?,
            dropout: self.dropout,
            attention: self.attention,
            deep_supervision: self.deep_supervision,
        })
    }

    /// The same settings with all defaults filled in.
    pub(super) fn written_out(&self, axes: usize, residual: bool) -> Result<Self> {
        let plan = self.plan(axes, residual)?;
        Ok(Self {
            norm: Some(plan.settings.norm),
            groups: (plan.settings.norm == NormKind::Group).then_some(plan.settings.groups),
            activation: Some(plan.settings.activation),
            downsampling: Some(match plan.pool {
                true => Downsampling::Pool,
                false => Downsampling::Stride,
            }),
            kernels: Some(plan.kernels),
            strides: Some(plan.strides),
            blocks: plan.blocks,
            convolutions: (!residual).then_some(plan.convolutions),
            decoder_convolutions: Some(plan.decoder_convolutions),
            ..self.clone()
        })
    }

    /// Required divisor of the input's sides along z, y, x; 1 along z for slices.
    pub(super) fn multiple(&self, axes: usize) -> [usize; 3] {
        let mut multiple = [1; 3];
        for axis in 0..axes {
            multiple[3 - axes + axis] = match &self.strides {
                Some(strides) => strides
                    .iter()
                    .take(MAX_LEVELS)
                    .map(|stride| stride.get(axis).copied().unwrap_or(1).clamp(1, MAX_STRIDE))
                    .product(),
                None => 1 << self.widths.len().saturating_sub(1).min(MAX_LEVELS),
            };
        }
        multiple
    }

    fn check_numbers(&self) -> Result<()> {
        let widths = &self.widths;
        let usable = widths
            .iter()
            .all(|width| (1..=MAX_CHANNELS).contains(width));
        if !(2..=MAX_LEVELS).contains(&widths.len()) || !usable {
            return Err(Error::invalid(format!(
                "network.widths = {widths:?} is invalid; expected 2 to {MAX_LEVELS} levels, each with 1 to {MAX_CHANNELS} channels"
            )));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::invalid(format!(
                "network.dropout = {} is invalid; expected a probability in [0, 1)",
                self.dropout
            )));
        }
        Ok(())
    }

    fn checked_kernels(&self, axes: usize) -> Result<Vec<Vec<usize>>> {
        let levels = self.widths.len();
        let Some(kernels) = &self.kernels else {
            return Ok(vec![vec![3; axes]; levels]);
        };
        let usable = |side: &usize| side % 2 == 1 && *side <= MAX_KERNEL;
        let fits = kernels.len() == levels
            && kernels
                .iter()
                .all(|kernel| kernel.len() == axes && kernel.iter().all(usable));
        if !fits {
            return Err(Error::invalid(format!(
                "network.kernels = {kernels:?} is invalid; expected {levels} lists of {axes} odd numbers up to {MAX_KERNEL}, one list for each of network.widths"
            )));
        }
        Ok(kernels.clone())
    }

    fn checked_strides(&self, axes: usize) -> Result<Vec<Vec<usize>>> {
        let levels = self.widths.len();
        let Some(strides) = &self.strides else {
            let mut strides = vec![vec![2; axes]; levels];
            strides[0] = vec![1; axes];
            return Ok(strides);
        };
        let usable = |stride: &usize| (1..=MAX_STRIDE).contains(stride);
        let fits = strides.len() == levels
            && strides
                .iter()
                .all(|stride| stride.len() == axes && stride.iter().all(usable))
            && strides[0].iter().all(|stride| *stride == 1);
        if !fits {
            return Err(Error::invalid(format!(
                "network.strides = {strides:?} is invalid; expected {levels} lists of {axes} numbers from 1 to {MAX_STRIDE}, one list for each of network.widths, the first of 1s"
            )));
        }
        Ok(strides.clone())
    }

    fn checked_groups(&self, norm: NormKind) -> Result<usize> {
        let groups = self.groups.unwrap_or(GROUPS);
        if norm != NormKind::Group {
            return match self.groups {
                Some(_) => Err(Error::invalid(
                    "network.groups is for norm = \"group\"; remove it or set norm",
                )),
                None => Ok(groups),
            };
        }
        if groups == 0 || self.widths.iter().any(|width| width % groups != 0) {
            return Err(Error::invalid(format!(
                "network.groups = {groups} is invalid; expected a number that divides each of network.widths = {:?}",
                self.widths
            )));
        }
        Ok(groups)
    }

    fn checked_convolutions(&self, residual: bool) -> Result<Vec<usize>> {
        if residual && self.convolutions.is_some() {
            return Err(Error::invalid(
                "network.convolutions is for plain encoders; residual encoders use network.blocks; remove it",
            ));
        }
        counts(
            "network.convolutions",
            self.convolutions.as_ref(),
            self.widths.len(),
            LAYERS,
        )
    }

    fn checked_decoder_convolutions(&self, residual: bool) -> Result<Vec<usize>> {
        let default = match residual {
            true => LAYERS_PER_RESIDUAL_DECODER_LEVEL,
            false => LAYERS,
        };
        let levels = self.widths.len() - 1;
        let given = self.decoder_convolutions.as_ref();
        counts("network.decoder_convolutions", given, levels, default)
    }

    fn checked_blocks(&self, residual: bool) -> Result<Option<Vec<usize>>> {
        let levels = self.widths.len();
        match (&self.blocks, residual) {
            (None, false) => Ok(None),
            (None, true) => Ok(Some(BLOCKS[..levels].to_vec())),
            (Some(_), false) => Err(Error::invalid(
                "network.blocks is for residual encoders (resenc2d, resenc3d); remove it or change network.kind",
            )),
            (Some(blocks), true)
                if blocks.len() == levels
                    && blocks.iter().all(|count| (1..=MAX_BLOCKS).contains(count)) =>
            {
                Ok(Some(blocks.clone()))
            }
            (Some(blocks), true) => Err(Error::invalid(format!(
                "network.blocks = {blocks:?} is invalid; expected {levels} numbers from 1 to {MAX_BLOCKS}, one for each of network.widths"
            ))),
        }
    }
}
