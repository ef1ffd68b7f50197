//! Losses at several scales of a network (Lee et al., "Deeply-Supervised Nets", AISTATS 2015), as in nnU-Net: each
//! scale has half the weight of the one above it, and targets are downsampled by nearest neighbour.

use std::borrow::Cow;

use crate::attention_maps::resized;

/// Weights of the losses at `scales` scales, finest first: 1/2^i, normalised to sum 1.
pub(crate) fn loss_weights(scales: usize) -> Vec<f64> {
    let halves = |scale: usize| 0.5f64.powi(i32::try_from(scale).unwrap_or(i32::MAX));
    let sum: f64 = (0..scales).map(halves).sum();
    (0..scales).map(|scale| halves(scale) / sum).collect()
}

/// Targets or distances at one scale.
pub(crate) struct Downsampled<'a> {
    pub values: Cow<'a, [f32]>,
    /// (batch, structure, z, y, x)
    pub shape: [usize; 5],
}

/// Targets or distances of `shape`, downsampled to the sides `to` (z, y, x) of the logits.
pub(crate) fn downsampled(values: &[f32], shape: [usize; 5], to: [usize; 3]) -> Downsampled<'_> {
    let [patches, structures, z, y, x] = shape;
    if [z, y, x] == to {
        return Downsampled {
            values: Cow::Borrowed(values),
            shape,
        };
    }
    Downsampled {
        values: Cow::Owned(resized(values, shape, to)),
        shape: [patches, structures, to[0], to[1], to[2]],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // nnU-Net with five outputs: [1, 1/2, 1/4, 1/8, 0] / (15/8); the output with weight 0 is omitted.
    #[test]
    fn weights_are_nnu_nets() {
        let expected = [8.0 / 15.0, 4.0 / 15.0, 2.0 / 15.0, 1.0 / 15.0];
        for (found, expected) in loss_weights(4).iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12);
        }
        assert_eq!(loss_weights(1), [1.0]);
    }

    #[test]
    fn targets_of_a_coarser_level_are_the_nearest_voxels() {
        let values: Vec<f32> = (0..16).map(|v| v as f32).collect();
        let found = downsampled(&values, [1, 2, 1, 2, 4], [1, 1, 2]);
        assert_eq!(found.shape, [1, 2, 1, 1, 2]);
        assert_eq!(*found.values, [5.0, 7.0, 13.0, 15.0]);
        let same = downsampled(&found.values, found.shape, [1, 1, 2]);
        assert!(matches!(same.values, Cow::Borrowed(_)));
    }
}
