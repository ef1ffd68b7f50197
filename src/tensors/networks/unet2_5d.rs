//! U-Net in two and a half dimensions: a [`Unet`] on slices that sees a slice's neighbours as further
//! channels (as in Han, "Automatic Liver Lesion Segmentation Using a Deep Convolutional Neural Network
//! Method", LiTS 2017, arXiv 1704.07239) and marks the middle one.

use burn::tensor::{Device, Tensor};

use super::unet::{Unet, UnetConfig};
use crate::error::{Error, Result};

/// Neighbours on each side where a recipe says nothing.
const NEIGHBOURS: usize = 2;

/// More neighbours than this are a volume, and unet3d's.
const MOST_NEIGHBOURS: usize = 16;

/// How many slices above a slice the network sees, and as many below.
pub(super) fn neighbours(config: &UnetConfig) -> usize {
    config.neighbours.unwrap_or(NEIGHBOURS)
}

/// A network whose first layer takes all channels of all slices.
pub(super) fn init(
    config: &UnetConfig,
    channels: usize,
    structures: usize,
    device: &Device,
) -> Result<Unet<4>> {
    let neighbours = neighbours(config);
    if !(1..=MOST_NEIGHBOURS).contains(&neighbours) {
        return Err(Error::invalid(format!(
            "network.neighbours = {neighbours} is not usable; expected 1 to {MOST_NEIGHBOURS} slices on each side (none: unet2d, more: unet3d)"
        )));
    }
    config.init(channels * (2 * neighbours + 1), structures, device)
}

/// The slices of each channel one after the other as channels.
///
/// # Shapes
/// - `input`: (batch, channel, slice, y, x)
/// - output: (batch, channel · slice, y, x)
pub(super) fn slices_as_channels(input: Tensor<5>) -> Tensor<4> {
    input.flatten(1, 2)
}
