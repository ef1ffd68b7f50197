//! Label maps onto other grids.

use ndarray::parallel::prelude::*;
use ndarray::{Array3, ArrayView3, Axis};

use super::taps::linear_neighbours;
use super::{checked_map, gather, in_target_order, positions_zyx};
use crate::error::Result;
use crate::values::{Grid, LabelMap};

/// How a label between voxel centres is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelInterpolation {
    /// The nearest voxel's; see [`super::Interpolation::Nearest`].
    Nearest,
    /// For every label in ascending order its mask, resampled linearly; where that reaches 0.5 the label
    /// is set (nnU-Net's `resize_segmentation`). Where no label reaches it: background.
    OneHotLinear,
}

/// Resamples labels onto the voxels of `onto`; beyond the source its border voxels repeat.
///
/// The cost does not depend on how many labels there are.
///
/// # Errors
/// As [`super::resample`].
pub fn resample_labels(
    labels: &LabelMap,
    onto: &Grid,
    interpolation: LabelInterpolation,
) -> Result<LabelMap> {
    let map = checked_map(labels.data.shape(), &labels.grid, onto)?;
    let aligned = in_target_order(labels.data.view(), &map);
    let positions = positions_zyx(&map, onto.shape.map(|voxels| 0..voxels));
    let data = match interpolation {
        LabelInterpolation::Nearest => {
            gather::gather(aligned, &gather::nearest(&positions, aligned.shape()))
        }
        LabelInterpolation::OneHotLinear if aligned.is_standard_layout() => {
            one_hot_linear(aligned, &positions)
        }
        LabelInterpolation::OneHotLinear => {
            one_hot_linear(gather::contiguous(aligned).view(), &positions)
        }
    };
    Ok(LabelMap { grid: *onto, data })
}

/// The lower of two neighbouring indices, the upper, and the upper's weight.
type Pair = (usize, usize, f64);

/// `source` in standard layout.
pub(super) fn one_hot_linear(source: ArrayView3<u16>, positions: &[Vec<f64>; 3]) -> Array3<u16> {
    let pairs: [Vec<Pair>; 3] = std::array::from_fn(|axis| {
        let length = source.shape()[axis];
        let along = positions[axis].iter();
        along.map(|p| linear_neighbours(*p, length)).collect()
    });
    let [z, y, x] = &pairs;
    let mut result = Array3::zeros((z.len(), y.len(), x.len()));
    let planes = result.axis_iter_mut(Axis(0)).into_par_iter().zip(z);
    planes.for_each(|(mut plane, z)| {
        for (mut row, y) in plane.rows_mut().into_iter().zip(y) {
            let rows = [(z.0, y.0), (z.0, y.1), (z.1, y.0), (z.1, y.1)].map(|(z, y)| {
                let row = source.index_axis(Axis(0), z).index_axis_move(Axis(0), y);
                row.to_slice().unwrap_or(&[])
            });
            // Most rows of most label maps hold one label, most often the background.
            let first = rows[0].first().copied().unwrap_or(0);
            if rows
                .iter()
                .all(|row| row.iter().all(|label| *label == first))
            {
                row.fill(first);
                continue;
            }
            let (wz, wy) = (z.2, y.2);
            let weights = [
                (1.0 - wz) * (1.0 - wy),
                (1.0 - wz) * wy,
                wz * (1.0 - wy),
                wz * wy,
            ];
            for (to, x) in row.iter_mut().zip(x) {
                *to = label_between(rows, weights, *x);
            }
        }
    });
    result
}

/// The label that reaches half of the weight among eight neighbours; of two that do, the higher.
fn label_between(rows: [&[u16]; 4], weights: [f64; 4], (low, high, weight): Pair) -> u16 {
    /// Half a weight may come out a rounding error short of it.
    const HALF: f64 = 0.5 - 1e-9;
    let first = rows[0][low];
    if rows
        .iter()
        .all(|row| row[low] == first && row[high] == first)
    {
        return first;
    }
    let mut seen = [(0u16, 0.0f64); 8];
    let mut distinct = 0;
    for (row, row_weight) in rows.iter().zip(weights) {
        for (label, share) in [(row[low], 1.0 - weight), (row[high], weight)] {
            let place = seen[..distinct]
                .iter()
                .position(|(known, _)| *known == label);
            let place = place.unwrap_or_else(|| {
                seen[distinct].0 = label;
                distinct += 1;
                distinct - 1
            });
            seen[place].1 += row_weight * share;
        }
    }
    let reached = seen[..distinct].iter().filter(|(_, sum)| *sum >= HALF);
    reached.map(|(label, _)| *label).max().unwrap_or(0)
}
