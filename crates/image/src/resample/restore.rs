//! Labels on the source grid from logits on the network's grid.

use std::ops::Range;

use ndarray::parallel::prelude::*;
use ndarray::{Array3, ArrayView3, ArrayView4, ArrayViewMut3, Axis, Slice, Zip};

use super::alignment::{at_nearest, checked_map, in_target_order, positions_zyx, target_axis};
use super::plan::{Kernel, interpolate};
use crate::space::{Grid, LabelMap, VoxelBox};
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result};

/// Maximum planes of the source that a thread processes at a time; bounds the memory beside the result.
const SLAB: usize = 16;

/// Slabs per thread, for load balancing.
const SLABS_PER_THREAD: usize = 4;

/// How logits become labels.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RestoreOptions {
    /// The axis (x, y, z) of the network's grid with nearest-neighbour instead of linear interpolation.
    pub nearest: Option<usize>,
    /// For nnU-Net's overlapping regions, their labels: of several with a positive logit, the last in this list wins.
    /// If empty, the largest logit wins.
    pub regions: Vec<u16>,
}

/// [`restore`] by linear interpolation; the largest logit wins.
///
/// # Errors
/// Those of [`restore`].
pub fn restore_exclusive(
    logits: ArrayView4<f32>,
    from: &Grid,
    source: &Grid,
    label_values: &[u16],
) -> Result<LabelMap> {
    restore(
        logits,
        from,
        source,
        label_values,
        &RestoreOptions::default(),
    )
}

/// Labels on `source` from logits on the network's grid `from`: of independent structures (sigmoid), or of
/// exclusive classes whose background has the logit 0 (softmax).
///
/// Each structure's logits are interpolated linearly to the source's voxels, repeating the outermost voxels of `from`.
/// The largest positive logit wins, or as `options` say; in a tie, the structure listed first. A voxel without a
/// positive logit is background: no independent structure has a probability above 0.5, or background is the most
/// probable class. Voxels whose centre is outside the outer faces of `from` are background; `from` may be part of the
/// source or extend beyond it. NaN never wins.
///
/// Memory beside the result: a few slabs of 16 planes per thread, whatever the number of structures.
///
/// # Shapes
/// `logits`: (structure, z, y, x) on `from`; `label_values`: the label of each structure
///
/// # Errors
/// Mismatched shapes, a label 0, grids whose axes are not parallel.
pub fn restore(
    logits: ArrayView4<f32>,
    from: &Grid,
    source: &Grid,
    label_values: &[u16],
    options: &RestoreOptions,
) -> Result<LabelMap> {
    if logits.len_of(Axis(0)) != label_values.len() || label_values.contains(&0) {
        return Err(Error::invalid(format!(
            "cannot restore labels: logits of {} for {}; expected one label value above 0 for each structure",
            counted(logits.len_of(Axis(0)), "structure"),
            counted(label_values.len(), "label value")
        )));
    }
    let map = checked_map(&logits.shape()[1..], from, source)?;
    let mut positions = positions_zyx(&map, source.shape.map(|voxels| 0..voxels));
    let aligned: Vec<_> = logits
        .axis_iter(Axis(0))
        .map(|own| in_target_order(own, &map))
        .collect();
    let mut result = LabelMap::empty(*source);
    let Some(first) = aligned.first() else {
        return Ok(result);
    };
    let covered = covered_part(&positions, first.shape());
    if let Some(axis) = options.nearest.and_then(|axis| target_axis(&map, axis)) {
        at_nearest(&mut positions, axis, first.shape());
    }
    let mut structures: Vec<Structure> = aligned
        .into_par_iter()
        .zip(label_values)
        .filter_map(|(logits, label)| Structure::new(logits, *label, &positions, &covered))
        .collect();
    let rank = |label: u16| options.regions.iter().position(|region| *region == label);
    structures.sort_by_key(|structure| rank(structure.label));
    let winner = match options.regions.is_empty() {
        true => Winner::Largest,
        false => Winner::Last,
    };
    let mut covered_labels = result.data.view_mut();
    for (axis, range) in covered.iter().enumerate() {
        covered_labels.slice_axis_inplace(Axis(axis), Slice::from(range.clone()));
    }
    // Slabs across z or, for a source with few planes, across y.
    let axis = usize::from(covered[1].len() > 2 * covered[0].len());
    let portions = SLABS_PER_THREAD * rayon::current_num_threads();
    let size = covered[axis].len().div_ceil(portions).clamp(1, SLAB);
    let slabs = covered_labels.axis_chunks_iter_mut(Axis(axis), size);
    slabs.into_par_iter().enumerate().for_each(|(place, slab)| {
        let mut origin = [0, 1, 2].map(|axis| covered[axis].start);
        origin[axis] += place * size;
        restore_slab(slab, origin, &positions, &structures, winner);
    });
    Ok(result)
}

/// Approximate bytes that [`restore`] needs beside its result, for `voxels` of the source, `planes` along each of the
/// two axes that slabs may be across, and `from_voxels` in the network's grid.
pub fn restore_bytes(planes: [usize; 2], voxels: u64, from_voxels: u64) -> u64 {
    let threads = rayon::current_num_threads();
    let at_once = |planes: usize| {
        let size = planes.div_ceil(SLABS_PER_THREAD * threads).clamp(1, SLAB);
        let share = (threads * size) as f64 / planes.max(1) as f64;
        share.min(1.0)
    };
    let share = at_once(planes[0]).max(at_once(planes[1]));
    // The best logits so far, one structure's logits, and the logits they are interpolated from.
    let held = (voxels + 2 * voxels.max(from_voxels)) as f64;
    (share * held * size_of::<f32>() as f64) as u64
}

/// Which of several structures with a positive logit wins a voxel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Winner {
    /// The one with the largest logit; in a tie, the first.
    Largest,
    /// The last in order.
    Last,
}

/// One structure and the part of the target where it can win.
struct Structure<'a> {
    /// Axes in the target's order.
    logits: ArrayView3<'a, f32>,
    label: u16,
    /// Target indices (z, y, x) that some positive logit reaches.
    reach: [Range<usize>; 3],
}

impl<'a> Structure<'a> {
    /// `None` if it cannot win anywhere in the covered part.
    fn new(
        logits: ArrayView3<'a, f32>,
        label: u16,
        positions: &[Vec<f64>; 3],
        covered: &[Range<usize>; 3],
    ) -> Option<Self> {
        // An interpolated logit is a mean of its neighbours: positive only next to a positive one.
        let positive = positive_box(logits)?;
        let reach = std::array::from_fn(|axis| {
            let last = logits.shape()[axis] as f64 - 1.0;
            let (low, high) = (positive.start[axis] as f64 - 1.0, positive.end[axis] as f64);
            let reached = within(&positions[axis], |p| {
                let p = p.clamp(0.0, last);
                p > low && p < high
            });
            overlap(&reached, &covered[axis])
        });
        reach.iter().all(|range| !range.is_empty()).then_some(Self {
            logits,
            label,
            reach,
        })
    }
}

/// A running arg-max over the structures; `origin` is the slab's first target index (z, y, x).
fn restore_slab(
    mut slab: ArrayViewMut3<u16>,
    origin: [usize; 3],
    positions: &[Vec<f64>; 3],
    structures: &[Structure],
    winner: Winner,
) {
    // Background has the logit 0.
    let mut best = Array3::<f32>::zeros(slab.raw_dim());
    let own = [0, 1, 2].map(|axis| origin[axis]..origin[axis] + slab.len_of(Axis(axis)));
    for structure in structures {
        let part = [0, 1, 2].map(|axis| overlap(&structure.reach[axis], &own[axis]));
        if part.iter().any(Range::is_empty) {
            continue;
        }
        let wanted = [0, 1, 2].map(|axis| positions[axis][part[axis].clone()].to_vec());
        // Not in parallel: the slabs already are.
        let logits = interpolate(structure.logits, wanted, Kernel::Linear, None, false);
        let (mut best, mut labels) = (best.view_mut(), slab.view_mut());
        for axis in 0..3 {
            let range = part[axis].start - origin[axis]..part[axis].end - origin[axis];
            best.slice_axis_inplace(Axis(axis), Slice::from(range.clone()));
            labels.slice_axis_inplace(Axis(axis), Slice::from(range));
        }
        Zip::from(&mut labels)
            .and(&mut best)
            .and(&logits)
            .for_each(|label, best, logit| {
                if *logit > *best {
                    *label = structure.label;
                    if winner == Winner::Largest {
                        *best = *logit;
                    }
                }
            });
    }
}

/// The bounding box of all positive logits, in array axes (z, y, x).
fn positive_box(logits: ArrayView3<f32>) -> Option<VoxelBox> {
    let mut start = [usize::MAX; 3];
    let mut end = [0; 3];
    for (z, plane) in logits.outer_iter().enumerate() {
        for (y, row) in plane.rows().into_iter().enumerate() {
            let positive = |logit: &f32| *logit > 0.0;
            let Some(first) = row.iter().position(positive) else {
                continue;
            };
            let beyond = row.len() - row.iter().rev().position(positive).unwrap_or(0);
            let low = [z, y, first];
            let high = [z + 1, y + 1, beyond];
            start = std::array::from_fn(|axis| start[axis].min(low[axis]));
            end = std::array::from_fn(|axis| end[axis].max(high[axis]));
        }
    }
    (end[0] > 0).then_some(VoxelBox { start, end })
}

/// The part of the target within the outer faces of a grid of `shape`: what the network saw.
fn covered_part(positions: &[Vec<f64>; 3], shape: &[usize]) -> [Range<usize>; 3] {
    [0, 1, 2].map(|axis| {
        let outer_face = shape[axis] as f64 - 0.5;
        within(&positions[axis], |p| {
            (-0.5 - 1e-6..=outer_face + 1e-6).contains(&p)
        })
    })
}

/// The indices whose positions satisfy `wanted`; positions are monotonic and `wanted` an interval.
fn within(positions: &[f64], wanted: impl Fn(f64) -> bool) -> Range<usize> {
    let Some(first) = positions.iter().position(|p| wanted(*p)) else {
        return 0..0;
    };
    let count = positions[first..]
        .iter()
        .take_while(|p| wanted(**p))
        .count();
    first..first + count
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    let start = a.start.max(b.start);
    start..a.end.min(b.end).max(start)
}
