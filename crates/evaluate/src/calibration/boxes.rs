//! Bounding boxes of structures, with a margin.

use std::collections::BTreeMap;

use super::scores::MARGIN_MM;
use ctseg_image::space::{LabelMap, VoxelBox};

/// For each label in either map, the bounding box of its voxels in both, grown by [`MARGIN_MM`] on every side and
/// clipped to the volume. Voxels whose reference is `ignore` are skipped.
pub(super) fn boxes(
    prediction: &LabelMap,
    reference: &LabelMap,
    ignore: Option<u16>,
) -> BTreeMap<u16, VoxelBox> {
    let mut found: BTreeMap<u16, VoxelBox> = BTreeMap::new();
    let planes = prediction
        .data
        .outer_iter()
        .zip(reference.data.outer_iter());
    for (z, (predicted, known)) in planes.enumerate() {
        let rows = predicted.outer_iter().zip(known.outer_iter());
        for (y, (predicted, known)) in rows.enumerate() {
            // Labels come in runs: a box is updated only at the end of a run.
            let mut runs = [Run::default(), Run::default()];
            for (x, (predicted, known)) in predicted.iter().zip(known).enumerate() {
                let labels = match Some(*known) == ignore {
                    true => [0, 0],
                    false => [*predicted, *known],
                };
                for (run, label) in runs.iter_mut().zip(labels) {
                    if run.label != label {
                        run.extend_box(x, [y, z], &mut found);
                        *run = Run { label, start: x };
                    }
                }
            }
            for run in &runs {
                run.extend_box(predicted.len(), [y, z], &mut found);
            }
        }
    }
    let spacing = reference.grid.spacing_mm();
    let margin = spacing.map(|mm| (MARGIN_MM / mm).ceil() as usize);
    for own in found.values_mut() {
        *own = own.grown(margin, reference.grid.shape);
    }
    found
}

/// Consecutive voxels of one label along x.
#[derive(Default)]
struct Run {
    label: u16,
    start: usize,
}

impl Run {
    fn extend_box(&self, end: usize, [y, z]: [usize; 2], found: &mut BTreeMap<u16, VoxelBox>) {
        if self.label == 0 {
            return;
        }
        let own = VoxelBox {
            start: [self.start, y, z],
            end: [end, y + 1, z + 1],
        };
        let known = found.entry(self.label).or_insert(own);
        *known = known.union(&own);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctseg_image::space::Grid;

    #[test]
    fn boxes_cover_both_maps_with_a_margin_and_skip_ignored_voxels() {
        let grid = Grid::with_spacing([30, 9, 5], [3.0, 5.0, 20.0]);
        let (mut prediction, mut reference) = (LabelMap::empty(grid), LabelMap::empty(grid));
        prediction.data[[2, 4, 10]] = 7;
        reference.data[[2, 5, 12]] = 7;
        reference.data[[0, 0, 29]] = 3;
        prediction.data[[4, 8, 0]] = 5;
        reference.data[[4, 8, 0]] = 255;
        let found = boxes(&prediction, &reference, Some(255));
        let expected = [(3, [25, 0, 0], [30, 3, 2]), (7, [6, 2, 1], [17, 8, 4])];
        let expected = expected.map(|(label, start, end)| (label, VoxelBox { start, end }));
        assert_eq!(found, BTreeMap::from(expected));
    }
}
