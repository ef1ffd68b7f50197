//! Patch positions and importance weights for sliding-window inference: nnU-Net's `compute_steps_for_sliding_window`
//! and `compute_gaussian`.

/// Start indices of the patches along one axis: evenly spaced from the first voxel to the last, at most `step` (a
/// fraction of the patch) apart. A patch at least as long as the axis starts at 0.
pub fn patch_starts(length: usize, patch: usize, step: f64) -> Vec<usize> {
    let patch = patch.max(1);
    if patch >= length {
        return vec![0];
    }
    // Every slice once, as nnU-Net does without a step.
    if patch == 1 {
        return (0..length).collect();
    }
    let largest = (length - patch) as f64;
    let count = (largest / (patch as f64 * step)).ceil() as usize + 1;
    let spacing = largest / (count - 1).max(1) as f64;
    // Like NumPy's `round` in the reference, halves round to even.
    (0..count)
        .map(|index| (spacing * index as f64).round_ties_even() as usize)
        .collect()
}

/// Patch size in standard deviations (the inverse of nnU-Net's `sigma_scale`, 1/8).
const SIGMAS_PER_PATCH: f64 = 8.0;

/// Importance weights along one axis of a patch: a Gaussian centred at voxel `patch / 2`, with maximum 1. In 3-D the
/// weights of the axes are multiplied.
pub fn importance(patch: usize) -> Vec<f32> {
    let sigma = patch as f64 / SIGMAS_PER_PATCH;
    let centre = (patch / 2) as f64;
    (0..patch)
        .map(|voxel| (-0.5 * ((voxel as f64 - centre) / sigma).powi(2)).exp() as f32)
        .collect()
}

/// The sum of the [`importance`] of all patches at `starts`, for every voxel of an axis.
pub fn importance_sum(length: usize, starts: &[usize], importance: &[f32]) -> Vec<f32> {
    let mut sum = vec![0.0; length];
    for start in starts {
        for (to, value) in sum[*start..].iter_mut().zip(importance) {
            *to += value;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // Golden values: nnU-Net's formula in Python, whose `round` rounds halves to even like NumPy's:
    //   n = math.ceil((size - patch) / (patch * step)) + 1; [round((size - patch) / (n - 1) * i) for i in range(n)]
    #[test]
    fn starts_match_nnu_net() {
        assert_eq!(patch_starts(110, 64, 0.5), [0, 23, 46]);
        assert_eq!(patch_starts(64, 64, 0.5), [0]);
        assert_eq!(patch_starts(40, 64, 0.5), [0]);
        assert_eq!(patch_starts(5, 1, 0.5), [0, 1, 2, 3, 4]);
        assert_eq!(patch_starts(65, 64, 0.5), [0, 1]);
        assert_eq!(patch_starts(251, 96, 0.5), [0, 39, 78, 116, 155]);
        assert_eq!(patch_starts(123, 40, 0.3), [0, 12, 24, 36, 47, 59, 71, 83]);
    }

    // Golden values: exp(-d² / (2 σ²)), what scipy.ndimage.gaussian_filter makes of an impulse in the middle
    // of 9 voxels with sigma = 9 / 8, divided by its largest value.
    #[test]
    fn importance_matches_nnu_net() {
        let nine = importance(9);
        for (found, expected) in nine.iter().zip([
            0.001_798_2,
            0.028_565_5,
            0.205_924_2,
            0.673_638_4,
            1.0,
            0.673_638_4,
            0.205_924_2,
            0.028_565_5,
            0.001_798_2,
        ]) {
            assert!((found - expected).abs() < 1e-6, "{found} for {expected}");
        }
        assert_eq!(importance(8)[4], 1.0);
        assert!((importance(8)[0] - (-8.0f32).exp()).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn every_voxel_is_covered(length in 1usize..400, patch in 1usize..200, step in 0.1f64..1.0) {
            let starts = patch_starts(length, patch, step);
            prop_assert_eq!(starts[0], 0);
            let patch = patch.min(length);
            prop_assert_eq!(starts[starts.len() - 1] + patch, length);
            let sums = importance_sum(length, &starts, &importance(patch));
            prop_assert!(sums.iter().all(|sum| *sum > 0.0));
            let reach = (patch as f64 * step).max(1.0).ceil() as usize;
            prop_assert!(starts.windows(2).all(|pair| pair[1] - pair[0] <= reach));
        }
    }
}
