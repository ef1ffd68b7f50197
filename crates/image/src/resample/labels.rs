//! Resampling of label maps.

use ndarray::parallel::prelude::*;
use ndarray::{Array3, ArrayView3, Axis};

use super::alignment::{checked_map, in_target_order, positions_zyx};
use super::gather;
use super::weights::linear_neighbours;
use crate::space::{Grid, LabelMap};
use ctseg_base::Result;

/// Interpolation of labels between voxel centres.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelInterpolation {
    /// The nearest voxel's label; see [`super::Interpolation::Nearest`].
    Nearest,
    /// Each label's mask is resampled linearly, in ascending order; the label is set where the result reaches 0.5
    /// (nnU-Net's `resize_segmentation` before batchgenerators 0.25.3). Background where no label reaches 0.5.
    OneHotLinear,
    /// The label whose linearly resampled mask is largest; in a tie, the nearest voxel's label if it is among them,
    /// else the lowest (`resize_segmentation` of batchgenerators 0.25.5, as called by nnU-Net 2.8.1).
    OneHotArgmax,
}

/// Resamples labels onto the voxels of `onto`; beyond the source its border voxels repeat.
///
/// Time does not depend on the number of labels.
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
        LabelInterpolation::OneHotLinear | LabelInterpolation::OneHotArgmax => {
            let rule = match interpolation {
                LabelInterpolation::OneHotArgmax => Rule::Largest,
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

/// How a label is chosen from its neighbours' weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// The highest label with at least half of the weight; background if there is none.
    Half,
    /// The label with the largest weight.
    Largest,
}

/// The lower and upper of two neighbouring indices, and the weight of the upper.
type Pair = (usize, usize, f64);

/// Resamples `source`, which must be in standard layout.
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
            // Most rows contain a single label, mostly background.
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

/// Whether the upper of two neighbours is nearer; half-way, it is.
fn is_upper(weight: f64) -> bool {
    weight >= 0.5 - 1e-6
}

/// The label chosen from eight neighbours; the nearest one has the label `nearest`.
fn label_between(
    rows: [&[u16]; 4],
    weights: [f64; 4],
    (low, high, weight): Pair,
    rule: Rule,
    nearest: u16,
) -> u16 {
    /// Tolerance for rounding of weights.
    const EPSILON: f64 = 1e-9;
    const HALF: f64 = 0.5 - EPSILON;
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
    let tied = || seen.iter().filter(|(_, sum)| *sum >= most - EPSILON);
    match tied().any(|(label, _)| *label == nearest) {
        true => nearest,
        false => tied().map(|(label, _)| *label).min().unwrap_or(0),
    }
}
