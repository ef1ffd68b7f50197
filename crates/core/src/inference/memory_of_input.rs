//! Peak memory of preprocessing: from a volume to a network's input.

use crate::recipe::{NnunetConfig, NnunetNormalisation, Recipe};
use ctseg_image::space::Grid;

/// Bytes per value, and per label.
pub(super) const FLOAT: u64 = 4;
pub(super) const LABELS: u64 = 2;

/// Bytes per voxel while holes of a mask are filled: the mask, its holes, their components.
const MASKS: u64 = 8;

/// Peak bytes from the volume on `source` (not counted) to the network's input on `grid` (counted); `prior_voxels` of
/// stage 1's probabilities become one of its channels.
pub(super) fn input_bytes(recipe: &Recipe, source: &Grid, grid: &Grid, prior_voxels: u64) -> u64 {
    let (all, onto) = (source.voxels() as u64, grid.voxels() as u64);
    // Clamped or normalised, then resampled.
    let resampled = FLOAT * (all + resampling_voxels(source, grid));
    let input = FLOAT * recipe.channels() as u64 * onto;
    let filled = FLOAT * onto + input;
    if let Some(nnunet) = &recipe.nnunet {
        return nnunet_bytes(nnunet, all, onto, resampled, input).max(filled);
    }
    let joined = match recipe.prior {
        // The channels, the prior and their concatenation.
        true => FLOAT * prior_voxels + 2 * input,
        false => 0,
    };
    resampled.max(filled).max(joined)
}

/// `all` and `onto` are the voxels of the volume and of the input, `resampled` and `input` bytes.
fn nnunet_bytes(nnunet: &NnunetConfig, all: u64, onto: u64, resampled: u64, input: u64) -> u64 {
    let masked = matches!(
        nnunet.normalisation,
        NnunetNormalisation::ZScore { masked: true }
    );
    let mask = if masked { MASKS * all } else { 0 };
    // Slice by slice: all resampled slices, then their result.
    let slices = FLOAT * (all + 2 * onto);
    let image = resampled.max(slices).max(FLOAT * all + mask);
    if nnunet.previous_labels.is_empty() {
        return image;
    }
    // The labels cropped, reoriented and resampled, and the nonzero mask.
    let labels = (2 * LABELS + MASKS) * all + LABELS * onto;
    image.max(input + labels)
}

/// Peak voxels of intermediate results when a volume is resampled to `grid`: axes are resampled one at a time, those
/// that shrink first, and each pass holds its input and its output.
fn resampling_voxels(source: &Grid, grid: &Grid) -> u64 {
    let Some(map) = grid.map_to(source) else {
        return 2 * (source.voxels() as u64).max(grid.voxels() as u64);
    };
    let ratio = |axis: usize| {
        let own = source.shape[map[axis].axis].max(1);
        // An unchanged axis needs no pass.
        (own != grid.shape[axis]).then(|| grid.shape[axis] as f64 / own as f64)
    };
    let mut ratios: Vec<f64> = (0..3).filter_map(ratio).collect();
    // The order of the shrinking axes depends on their lengths; assume the worst.
    ratios.sort_by(|a, b| (*a > 1.0).cmp(&(*b > 1.0)).then(b.total_cmp(a)));
    let mut size = source.voxels() as f64;
    // Unless lines lie along the file's x axis, the volume is transposed first.
    let mut held = if map[0].axis == 0 { 0.0 } else { size };
    let mut most: f64 = held;
    for ratio in &ratios {
        size *= ratio;
        most = most.max(held + size);
        held = size;
    }
    if ratios.is_empty() {
        most = size; // a copy
    }
    most as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pass_holds_its_input_and_its_output() {
        let voxels = |onto: [usize; 3]| {
            let source = Grid::with_spacing([10, 10, 10], [1.0; 3]);
            resampling_voxels(&source, &source.resized(onto))
        };
        assert_eq!(voxels([10, 10, 10]), 1000);
        assert_eq!(voxels([10, 10, 5]), 500);
        // 500 voxels, then 250 beside them.
        assert_eq!(voxels([5, 5, 10]), 750);
        // 500 voxels, then 1000 beside them, then 2000 beside those.
        assert_eq!(voxels([20, 20, 5]), 3000);
    }

    #[test]
    fn a_file_with_another_axis_order_is_transposed_first() {
        let onto = Grid::with_spacing([10, 10, 10], [1.0; 3]);
        let mut source = onto;
        source.affine[0] = [0.0, 1.0, 0.0, 0.0];
        source.affine[1] = [1.0, 0.0, 0.0, 0.0];
        let half = onto.resized([5, 10, 10]);
        assert_eq!(resampling_voxels(&source, &half), 1500);
    }
}
