//! Counts voxels by their stored probability code. Counts are integers, so sums do not depend on the order, and all
//! metrics are computed from them.

use std::collections::BTreeMap;

use ndarray::{ArrayView1, Axis};

use super::scores::StructureCalibration;
use ctseg_base::Result;
use ctseg_core::outputs::probabilities::ProbabilityKind;
use ctseg_core::outputs::probabilities_reader::ProbabilityReader;
use ctseg_image::space::{LabelMap, VoxelBox};

/// Per code: voxels outside and inside the structure far from it, then outside and inside near it.
type Counts = Vec<[u64; 4]>;

/// Offsets in a [`Counts`] entry for voxels near the structure and inside it.
const NEAR: usize = 2;
const INSIDE: usize = 1;

/// Measures each map; `labels` has the label value of each map, none for maps to skip. Voxels whose reference is the
/// ignore value are not counted.
pub(super) fn counted(
    reader: ProbabilityReader,
    kind: ProbabilityKind,
    labels: &[Option<u16>],
    boxes: &BTreeMap<u16, VoxelBox>,
    reference: &LabelMap,
    ignore: Option<u16>,
) -> Result<Vec<Option<StructureCalibration>>> {
    let (depth, _, width) = reference.data.dim();
    let mut measured: Vec<Option<StructureCalibration>> = vec![None; labels.len()];
    let mut counts: Counts = vec![[0; 4]; kind.codes()];
    reader.each_slice(|map, z, codes| {
        let Some(label) = labels.get(map).copied().flatten() else {
            return;
        };
        let slice = reference.data.index_axis(Axis(0), z);
        for (y, (codes, row)) in codes
            .chunks_exact(width)
            .zip(slice.outer_iter())
            .enumerate()
        {
            let near = boxes.get(&label).filter(|own| {
                (own.start[1]..own.end[1]).contains(&y) && (own.start[2]..own.end[2]).contains(&z)
            });
            let [start, end] = near.map_or([0, 0], |own| [own.start[0], own.end[0]]);
            let mut count = |from: usize, to: usize, place: usize| {
                let row = row.slice_move(ndarray::s![from..to]);
                count_row(&mut counts, &codes[from..to], row, label, ignore, place);
            };
            count(0, start, 0);
            count(start, end, NEAR);
            count(end, width, 0);
        }
        if z + 1 == depth {
            measured[map] = Some(of_counts(&counts, kind));
            counts.fill([0; 4]);
        }
    })?;
    Ok(measured)
}

fn count_row(
    counts: &mut Counts,
    codes: &[u16],
    row: ArrayView1<u16>,
    label: u16,
    ignore: Option<u16>,
    place: usize,
) {
    for (code, known) in codes.iter().zip(row) {
        if ignore != Some(*known) {
            let inside = INSIDE * usize::from(*known == label);
            counts[usize::from(*code)][place + inside] += 1;
        }
    }
}

fn of_counts(counts: &Counts, kind: ProbabilityKind) -> StructureCalibration {
    let mut measured = StructureCalibration::default();
    for (code, [far_out, far_in, near_out, near_in]) in counts.iter().copied().enumerate() {
        if far_out + far_in + near_out + near_in > 0 {
            let probability = kind.probability(code as u16);
            measured.near.add(probability, near_out, near_in);
            let (outside, inside) = (far_out + near_out, far_in + near_in);
            measured.whole.add(probability, outside, inside);
        }
    }
    measured
}
