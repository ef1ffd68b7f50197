//! The complete plan of a U-Net.

use crate::blocks::{LayerSettings, NormKind};

/// Settings with all defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub widths: Vec<usize>,
    /// Per level and axis.
    pub kernels: Vec<Vec<usize>>,
    /// Per level and axis; 1s for the first.
    pub strides: Vec<Vec<usize>>,
    pub settings: LayerSettings,
    pub pool: bool,
    /// Blocks per level of a residual encoder; `None` for a plain one.
    pub blocks: Option<Vec<usize>>,
    /// Per level of a plain encoder.
    pub convolutions: Vec<usize>,
    /// Per level of the decoder, finest first.
    pub decoder_convolutions: Vec<usize>,
    pub dropout: f64,
    pub attention: bool,
    pub deep_supervision: bool,
}

/// Parameters of `count` convolutions in sequence: the first from `from` to `to` channels, the others from `to` to
/// `to`.
fn convolutions(count: usize, [from, to]: [u64; 2], voxels: u64) -> u64 {
    let later = (count as u64).saturating_sub(1);
    convolution([from, to], voxels)
        .saturating_add(later.saturating_mul(convolution([to, to], voxels)))
}

/// Parameters of a convolution and its normalisation (two per channel).
fn convolution([from, to]: [u64; 2], voxels: u64) -> u64 {
    let weights = from.saturating_mul(to).saturating_mul(voxels);
    weights.saturating_add(2 * to)
}

/// Weights and biases of a convolution without normalisation.
fn with_biases(from: u64, to: u64, voxels: u64) -> u64 {
    let weights = from.saturating_mul(to).saturating_mul(voxels);
    weights.saturating_add(to)
}

fn voxels(sides: &[usize]) -> u64 {
    sides.iter().map(|side| *side as u64).product()
}

impl Plan {
    /// Number of trained parameters of the network that [`Unet::new`](super::Unet) would build.
    pub fn parameters(&self, channels: u64, structures: u64) -> u64 {
        let widths: Vec<u64> = self.widths.iter().map(|width| *width as u64).collect();
        let kernel = |level: usize| voxels(&self.kernels[level]);
        let head = |level: usize| with_biases(widths[level], structures, 1);
        let mut sum = head(0);
        let mut add = |parameters: u64| sum = sum.saturating_add(parameters);
        if self.blocks.is_some() {
            add(convolution([channels, widths[0]], kernel(0)));
        }
        for level in 0..widths.len() {
            let first = if self.blocks.is_some() {
                widths[0]
            } else {
                channels
            };
            let from = if level == 0 { first } else { widths[level - 1] };
            add(self.encoder_level(level, [from, widths[level]], kernel(level)));
        }
        for level in 1..widths.len() {
            let (below, width) = (widths[level], widths[level - 1]);
            add(with_biases(below, width, voxels(&self.strides[level])));
            let count = self.decoder_convolutions[level - 1];
            add(convolutions(count, [2 * width, width], kernel(level - 1)));
            if self.attention {
                add(self.gate(width));
            }
            let is_supervised = self.deep_supervision && level + 2 < widths.len();
            if is_supervised {
                add(head(level));
            }
        }
        sum
    }

    fn encoder_level(&self, level: usize, [from, to]: [u64; 2], voxels: u64) -> u64 {
        let Some(blocks) = &self.blocks else {
            return convolutions(self.convolutions[level], [from, to], voxels);
        };
        // The first block has a convolution on its shortcut if the channels change.
        let skip = if from == to {
            0
        } else {
            convolution([from, to], 1)
        };
        convolutions(2 * blocks[level], [from, to], voxels).saturating_add(skip)
    }

    fn gate(&self, width: u64) -> u64 {
        let inner = (width / 2).max(1);
        let map = match self.settings.norm {
            NormKind::Batch => convolution([inner, 1], 1),
            NormKind::Instance | NormKind::Group => with_biases(inner, 1, 1),
        };
        (2 * convolution([width, inner], 1)).saturating_add(map)
    }
}
