//! Attention maps of several network levels, resampled to one grid, in host memory.

use ctseg_base::{Error, Result};

/// (patch, channel, z, y, x), flattened, and its shape.
pub(super) type Map = (Vec<f32>, [usize; 5]);

/// The nearest voxel of `from` for voxel `at` of `to` along an axis (as PyTorch's `nearest-exact`).
fn nearest(at: usize, from: usize, to: usize) -> usize {
    ((2 * at + 1) * from / (2 * to.max(1))).min(from.saturating_sub(1))
}

/// Resamples `values` to sides `to` (z, y, x) by nearest neighbour.
///
/// # Shapes
/// `values`: `shape` (patch, channel, z, y, x), flattened
pub(super) fn resized(values: &[f32], shape: [usize; 5], to: [usize; 3]) -> Vec<f32> {
    let [patches, channels, depth, height, width] = shape;
    let columns: Vec<usize> = (0..to[2]).map(|x| nearest(x, width, to[2])).collect();
    let mut result = Vec::with_capacity(patches * channels * to.iter().product::<usize>());
    for volume in values.chunks_exact((depth * height * width).max(1)) {
        for z in 0..to[0] {
            let z = nearest(z, depth, to[0]);
            for y in 0..to[1] {
                let row = (z * height + nearest(y, height, to[1])) * width;
                result.extend(columns.iter().map(|x| volume[row + x]));
            }
        }
    }
    result
}

/// Stacks the maps of all levels (one channel each, finest first) as channels, resampled to the finest depth and to
/// sides `[y, x]`.
pub(super) fn enlarged(maps: &[Map], [height, width]: [usize; 2]) -> Result<Map> {
    let Some((_, [patches, _, depth, _, _])) = maps.first() else {
        return Err(Error::internal("no maps to enlarge"));
    };
    let (patches, depth) = (*patches, *depth);
    let side = [depth, height, width];
    let size: usize = side.iter().product();
    let all: Vec<Vec<f32>> = maps
        .iter()
        .map(|(values, shape)| resized(values, *shape, side))
        .collect();
    let mut result = Vec::with_capacity(patches * maps.len() * size);
    for patch in 0..patches {
        for map in &all {
            result.extend_from_slice(&map[patch * size..(patch + 1) * size]);
        }
    }
    Ok((result, [patches, maps.len(), depth, height, width]))
}

/// The mean of maps of one shape.
pub(super) fn mean_of(maps: Vec<Map>) -> Result<Map> {
    let count = maps.len() as f32;
    let mut maps = maps.into_iter();
    let Some((mut sum, shape)) = maps.next() else {
        return Err(Error::internal("the mean of no maps"));
    };
    for (values, _) in maps {
        for (sum, value) in sum.iter_mut().zip(values) {
            *sum += value;
        }
    }
    sum.iter_mut().for_each(|value| *value /= count);
    Ok((sum, shape))
}

#[cfg(test)]
mod tests {
    use super::*;

    // torch.nn.functional.interpolate(x, size, mode = "nearest-exact") of 0 … n − 1:
    //   8 → 4: 1 3 5 7;  6 → 2: 1 4;  5 → 2: 1 3;  2 → 4: 0 0 1 1;  3 → 3: 0 1 2;  8 → 1: 4
    #[test]
    fn nearest_voxels_are_pytorchs() {
        for (from, to, expected) in [
            (8, 4, vec![1, 3, 5, 7]),
            (6, 2, vec![1, 4]),
            (5, 2, vec![1, 3]),
            (2, 4, vec![0, 0, 1, 1]),
            (3, 3, vec![0, 1, 2]),
            (8, 1, vec![4]),
        ] {
            let found: Vec<usize> = (0..to).map(|at| nearest(at, from, to)).collect();
            assert_eq!(found, expected, "{from} to {to}");
        }
    }

    #[test]
    fn maps_of_levels_lie_side_by_side() {
        let fine: Map = ((0..8).map(|v| v as f32).collect(), [2, 1, 1, 2, 2]);
        let coarse: Map = (vec![10.0, 20.0], [2, 1, 1, 1, 1]);
        let (values, shape) = enlarged(&[fine, coarse], [2, 2]).unwrap();
        assert_eq!(shape, [2, 2, 1, 2, 2]);
        let expected = [
            0.0, 1.0, 2.0, 3.0, 10.0, 10.0, 10.0, 10.0, 4.0, 5.0, 6.0, 7.0, 20.0, 20.0, 20.0, 20.0,
        ];
        assert_eq!(values, expected);
        let mean = mean_of(vec![
            (vec![1.0, 2.0], [1, 1, 1, 1, 2]),
            (vec![3.0, 0.0], [1, 1, 1, 1, 2]),
        ]);
        assert_eq!(mean.unwrap().0, [2.0, 1.0]);
        assert!(enlarged(&[], [1, 1]).is_err());
    }
}
