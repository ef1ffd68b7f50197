//! What a U-Net is built from.

use crate::blocks::LayerSettings;

/// What is built: the settings with nothing left open.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub widths: Vec<usize>,
    /// Per level and axis.
    pub kernels: Vec<Vec<usize>>,
    /// Per level and axis; 1s for the first.
    pub strides: Vec<Vec<usize>>,
    pub settings: LayerSettings,
    pub pool: bool,
    /// Per level, of a residual encoder; none of a plain one.
    pub blocks: Option<Vec<usize>>,
    /// Per level of a plain encoder.
    pub convolutions: Vec<usize>,
    /// Per level of the decoder, finest first.
    pub decoder_convolutions: Vec<usize>,
    pub dropout: f64,
    pub attention: bool,
    pub deep_supervision: bool,
}
