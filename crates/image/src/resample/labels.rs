//! Label maps onto other grids.

use ndarray::parallel::prelude::*;
use ndarray::{Array3, ArrayView3, Axis};

use super::alignment::{checked_map, in_target_order, positions_zyx};
use super::gather;
use super::weights::linear_neighbours;
use crate::space::{Grid, LabelMap};
use ctseg_base::Result;

/// How a label between voxel centres is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelInterpolation {
    /// The nearest voxel's; see [`super::Interpolation::Nearest`].
    Nearest,
    /// For every label in ascending order its mask, resampled linearly; where that reaches 0.5 the label
    /// is set (nnU-Net's `resize_segmentation` before batchgenerators 0.25.3). Where no label reaches it: background.
    OneHotLinear,
    /// The label whose mask, resampled linearly, is the largest; of several the nearest voxel's if it is among them,
    /// else the lowest (`resize_segmentation` of batchgenerators 0.25.5, which nnU-Net 2.8.1 calls).
    Likeliest,
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
        LabelInterpolation::OneHotLinear | LabelInterpolation::Likeliest => {
            let rule = match interpolation {
                LabelInterpolation::Likeliest => Rule::Largest,
                _ => Rule::Half,
            };
            match aligned.is_standard_layout() {
                true => one_hot_linear(aligned, &positions, rule),
                false => one_hot_linear(gather::contiguous(aligned).view(), &positions, rule),
            }
        }
    };
    Ok(LabelMap { grid: *onto, data })
}

/// Which of the labels around a place it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// The highest that has half of the weight; background where none has.
    Half,
    /// The one with the most.
    Largest,
}

/// The lower of two neighbouring indices, the upper, and the upper's weight.
type Pair = (usize, usize, f64);

/// `source` in standard layout.
pub(super) fn one_hot_linear(
    source: ArrayView3<u16>,
    positions: &[Vec<f64>; 3],
    rule: Rule,
) -> Array3<u16> {
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
            let nearest = rows[2 * usize::from(is_upper(wz)) + usize::from(is_upper(wy))];
            for (to, x) in row.iter_mut().zip(x) {
                let near = if is_upper(x.2) { x.1 } else { x.0 };
                *to = label_between(rows, weights, *x, rule, nearest[near]);
            }
        }
    });
    result
}

/// Whether the upper one of two neighbours is the nearer; half-way it is.
fn is_upper(weight: f64) -> bool {
    weight >= 0.5 - 1e-6
}

/// The label among eight neighbours, the nearest of which is `nearest`.
fn label_between(
    rows: [&[u16]; 4],
    weights: [f64; 4],
    (low, high, weight): Pair,
    rule: Rule,
    nearest: u16,
) -> u16 {
    /// Weights may come out a rounding error apart.
    const DUST: f64 = 1e-9;
    const HALF: f64 = 0.5 - DUST;
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
    let seen = &seen[..distinct];
    if rule == Rule::Half {
        let reached = seen.iter().filter(|(_, sum)| *sum >= HALF);
        return reached.map(|(label, _)| *label).max().unwrap_or(0);
    }
    let most = seen.iter().fold(0.0f64, |most, (_, sum)| most.max(*sum));
    let tied = || seen.iter().filter(|(_, sum)| *sum >= most - DUST);
    match tied().any(|(label, _)| *label == nearest) {
        true => nearest,
        false => tied().map(|(label, _)| *label).min().unwrap_or(0),
    }
}
