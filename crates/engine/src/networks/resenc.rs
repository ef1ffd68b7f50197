//! The residual encoder of nnU-Net's `ResidualEncoderUNet` (Isensee et al., "nnU-Net Revisited", MICCAI 2024): a
//! stem, then residual blocks per level, the first one strided; the decoder is lighter.

use burn::tensor::Device;

use super::level::Level;
use super::plan::Plan;
use crate::blocks::Residual;

/// Levels of `blocks` residual blocks each; the first takes the output of the stem.
pub(super) fn encoder<const R: usize>(
    plan: &Plan,
    blocks: &[usize],
    device: &Device,
) -> Vec<Level<R>> {
    let one = vec![1; R - 2];
    let inputs = plan.widths.iter().take(1).chain(&plan.widths);
    let levels = inputs.zip(&plan.widths).zip(blocks).enumerate();
    levels
        .map(|(index, ((from, to), count))| {
            let block = |at: usize| {
                let (from, stride) = match at {
                    0 => (*from, plan.strides[index].as_slice()),
                    _ => (*to, one.as_slice()),
                };
                let kernel = &plan.kernels[index];
                Residual::new([from, *to], kernel, stride, plan.settings, device)
            };
            Level::Residual((0..*count).map(block).collect())
        })
        .collect()
}
