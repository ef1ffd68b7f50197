//! Run-length coded label maps: runs of a label along x. Structures are compact, so a map of 80 million voxels takes a
//! few megabytes, and counting by runs handles about a hundred voxels at a time.

use std::collections::BTreeSet;
use std::ops::Range;

use ndarray::{Array3, s};

use super::bounding_box::Extent;
use super::run_length_mask::RunMask;
use crate::metrics::overlap::Overlap;
use crate::space::{Grid, LabelMap, Reorientation, VoxelBox};

/// Consecutive voxels of one label along x.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LabelRun {
    start: u32,
    end: u32,
    label: u16,
}

/// A run-length coded label map on its grid; voxels outside all runs are background.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelRuns {
    /// Where the voxels lie.
    pub grid: Grid,
    runs: Vec<LabelRun>,
    /// Index of the first run of each row, y fastest; then the total number of runs.
    row_starts: Vec<usize>,
}

/// Builds [`LabelRuns`] from a stream of labels, x fastest.
pub struct RunBuilder {
    made: LabelRuns,
    width: usize,
    /// The x of the next label.
    x: usize,
}

impl RunBuilder {
    /// Starts at the first voxel of `grid`.
    pub fn new(grid: Grid) -> Self {
        Self {
            made: LabelRuns {
                grid,
                runs: Vec::new(),
                row_starts: vec![0],
            },
            width: grid.shape[0],
            x: 0,
        }
    }

    /// The number of labels added so far.
    pub fn count(&self) -> usize {
        (self.made.row_starts.len() - 1) * self.width + self.x
    }

    /// Adds the next labels; those beyond the grid are ignored.
    pub fn extend(&mut self, mut labels: &[u16]) {
        let rows = self.made.grid.shape[1] * self.made.grid.shape[2];
        while !labels.is_empty() && self.made.row_starts.len() <= rows {
            let (of_row, rest) = labels.split_at(labels.len().min(self.width - self.x));
            for same in of_row.chunk_by(|a, b| a == b) {
                self.add(same[0], same.len());
            }
            if self.x == self.width {
                self.made.row_starts.push(self.made.runs.len());
                self.x = 0;
            }
            labels = rest;
        }
    }

    fn add(&mut self, label: u16, count: usize) {
        let (start, end) = (self.x as u32, (self.x + count) as u32);
        self.x += count;
        if label == 0 {
            return;
        }
        let row_start = self.made.row_starts.last().copied().unwrap_or(0);
        match self.made.runs[row_start..].last_mut() {
            // Continue a run that the previous chunk ended in.
            Some(last) if last.label == label && last.end == start => last.end = end,
            _ => self.made.runs.push(LabelRun { start, end, label }),
        }
    }

    /// The finished map; rows not added are background.
    pub fn finish(mut self) -> LabelRuns {
        let rows = self.made.grid.shape[1] * self.made.grid.shape[2];
        self.made.row_starts.resize(rows + 1, self.made.runs.len());
        self.made
    }
}

impl From<&LabelMap> for LabelRuns {
    fn from(map: &LabelMap) -> Self {
        let mut builder = RunBuilder::new(map.grid);
        for row in map.data.rows() {
            match row.as_slice() {
                Some(row) => builder.extend(row),
                None => builder.extend(&row.to_vec()),
            }
        }
        builder.finish()
    }
}

impl LabelRuns {
    /// The map on `grid`, which is its own grid after `reorientation`. Uncompressed in memory unless `reorientation` is
    /// the identity.
    pub fn placed(self, grid: Grid, reorientation: &Reorientation) -> Self {
        if *reorientation == Reorientation::IDENTITY {
            return Self { grid, ..self };
        }
        let mut data = Array3::zeros(self.grid.shape_zyx());
        for (number, mut row) in data.rows_mut().into_iter().enumerate() {
            for run in self.row(number) {
                row.slice_mut(s![run.start as usize..run.end as usize])
                    .fill(run.label);
            }
        }
        let data = reorientation.apply(data);
        Self::from(&LabelMap { grid, data })
    }

    /// The labels that occur, ascending, without background.
    pub fn labels(&self) -> BTreeSet<u16> {
        let mut seen = vec![false; usize::from(u16::MAX) + 1];
        self.runs
            .iter()
            .for_each(|run| seen[usize::from(run.label)] = true);
        (1..=u16::MAX)
            .filter(|label| seen[usize::from(*label)])
            .collect()
    }

    /// The extents of the structures with these `labels` (none of them 0), in the same order.
    pub fn extents(&self, labels: &[u16]) -> Vec<Extent> {
        let slots = Slots::of(labels);
        let height = self.grid.shape[1].max(1);
        let mut found = vec![Extent::default(); labels.len()];
        for row in 0..self.row_starts.len() - 1 {
            for run in self.row(row) {
                if let Some(extent) = found.get_mut(slots.0[usize::from(run.label)]) {
                    let first = [run.start as usize, row % height, row / height];
                    extent.add_run(first, run.length() as usize);
                }
            }
        }
        found
    }

    /// The number of runs of each structure with these `labels` (none of them 0), in the same order.
    pub fn run_counts(&self, labels: &[u16]) -> Vec<usize> {
        let slots = Slots::of(labels);
        let mut counts = vec![0; labels.len()];
        for run in &self.runs {
            if let Some(count) = counts.get_mut(slots.0[usize::from(run.label)]) {
                *count += 1;
            }
        }
        counts
    }

    /// The masks of the structures with these `labels` (distinct, none of them 0), in the same order. Memory grows with
    /// their own runs.
    pub fn structures(&self, labels: &[u16]) -> Vec<RunMask> {
        let slots = Slots::of(labels);
        let counts = self.run_counts(labels).into_iter();
        let empty = |count| RunMask::with_capacity(self.grid.shape_zyx(), count);
        let mut structures: Vec<RunMask> = counts.map(empty).collect();
        for row in 0..self.row_starts.len() - 1 {
            for run in self.row(row) {
                if let Some(mask) = structures.get_mut(slots.0[usize::from(run.label)]) {
                    mask.push(row, run.start as usize, run.end as usize);
                }
            }
        }
        structures
    }

    /// The fraction of the foreground voxels that lie inside `region`; `None` without foreground.
    pub fn recall_inside(&self, region: &VoxelBox) -> Option<f64> {
        let height = self.grid.shape[1].max(1);
        // Regions may come from files: one that ends before it starts is empty.
        let first_x = region.start[0];
        let columns = first_x as u32..region.end[0].max(first_x) as u32;
        let (mut inside, mut all) = (0u64, 0u64);
        for row in 0..self.row_starts.len() - 1 {
            let [_, first_y, first_z] = region.start;
            let [_, end_y, end_z] = region.end;
            let crosses = (first_y..end_y).contains(&(row % height))
                && (first_z..end_z).contains(&(row / height));
            for run in self.row(row) {
                all += run.length();
                if crosses {
                    inside += run.inside(&columns).len() as u64;
                }
            }
        }
        (all > 0).then(|| inside as f64 / all as f64)
    }

    fn row(&self, row: usize) -> &[LabelRun] {
        let range = self.row_starts.get(row).zip(self.row_starts.get(row + 1));
        range.map_or(&[], |(start, end)| &self.runs[*start..*end])
    }
}

impl LabelRun {
    fn length(&self) -> u64 {
        u64::from(self.end - self.start)
    }

    /// The part of the run inside these columns; an empty range within them if there is none.
    fn inside(&self, columns: &Range<u32>) -> Range<u32> {
        let start = self.start.clamp(columns.start, columns.end);
        start..self.end.clamp(start, columns.end)
    }
}

/// The slot that each label is counted in; `usize::MAX` for labels not requested.
struct Slots(Vec<usize>);

impl Slots {
    fn of(labels: &[u16]) -> Self {
        let mut slots = vec![usize::MAX; usize::from(u16::MAX) + 1];
        for (slot, label) in labels.iter().enumerate() {
            slots[usize::from(*label)] = slot;
        }
        Self(slots)
    }
}

/// The overlap of each of `labels` (distinct, none of them 0), in the same order, of two maps of equal shape.
pub fn run_overlaps(prediction: &LabelRuns, reference: &LabelRuns, labels: &[u16]) -> Vec<Overlap> {
    let slots = Slots::of(labels);
    let mut both = vec![0u64; labels.len()];
    for row in 0..reference.row_starts.len() - 1 {
        let (mut a, mut b) = (prediction.row(row), reference.row(row));
        while let (Some(first), Some(second)) = (a.first(), b.first()) {
            if first.label == second.label
                && let Some(both) = both.get_mut(slots.0[usize::from(first.label)])
            {
                let shared = first
                    .end
                    .min(second.end)
                    .saturating_sub(first.start.max(second.start));
                *both += u64::from(shared);
            }
            if first.end <= second.end {
                a = &a[1..];
            } else {
                b = &b[1..];
            }
        }
    }
    let all = reference.grid.voxels() as u64;
    let counts = [prediction, reference].map(|map| map.extents(labels));
    let overlap = |slot: usize| {
        let [predicted, actual] = [&counts[0], &counts[1]].map(|extents| extents[slot].voxels);
        Overlap {
            true_positive: both[slot],
            false_positive: predicted - both[slot],
            false_negative: actual - both[slot],
            true_negative: all + both[slot] - predicted - actual,
        }
    };
    (0..labels.len()).map(overlap).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::metrics::overlap::{overlaps, recall_inside};

    fn map(labels: Vec<u16>) -> LabelMap {
        let grid = Grid::with_spacing([7, 5, 4], [1.0, 2.0, 3.0]);
        let data = Array3::from_shape_vec(grid.shape_zyx(), labels).unwrap();
        LabelMap { grid, data }
    }

    fn labels() -> impl Strategy<Value = Vec<u16>> {
        let label = prop_oneof![3 => Just(0u16), 2 => Just(1), 2 => Just(2), 1 => Just(300)];
        proptest::collection::vec(label, 7 * 5 * 4)
    }

    #[test]
    fn a_region_that_ends_before_it_starts_is_empty() {
        let runs = LabelRuns::from(&map(vec![1; 7 * 5 * 4]));
        let region = VoxelBox {
            start: [5, 0, 0],
            end: [2, 5, 4],
        };
        assert_eq!(runs.recall_inside(&region), Some(0.0));
    }

    #[test]
    fn reoriented_runs_equal_the_reoriented_map() {
        let map = map((0..7 * 5 * 4).map(|at| (at / 3 % 4) as u16).collect());
        for reorientation in Reorientation::all() {
            let turned = LabelMap {
                grid: map.grid.reoriented_by(&reorientation),
                data: reorientation.apply(map.data.clone()),
            };
            let runs = LabelRuns::from(&map).placed(turned.grid, &reorientation);
            assert_eq!(runs, LabelRuns::from(&turned), "{reorientation:?}");
        }
    }

    proptest! {
        /// Counting by runs equals counting voxel by voxel.
        #[test]
        fn runs_count_like_voxels(
            a in labels(),
            b in labels(),
            piece in 1usize..50,
            start in (0usize..7, 0usize..5, 0usize..4),
            end in (1usize..=7, 1usize..=5, 1usize..=4),
        ) {
            let maps = [map(a.clone()), map(b)];
            let runs = [LabelRuns::from(&maps[0]), LabelRuns::from(&maps[1])];
            let mut builder = RunBuilder::new(maps[0].grid);
            a.chunks(piece).for_each(|piece| builder.extend(piece));
            prop_assert_eq!(builder.count(), a.len());
            prop_assert_eq!(&builder.finish(), &runs[0]);
            let asked = [2, 300, 1, 8];
            let counted = overlaps(&maps[0], &maps[1], &asked).unwrap();
            prop_assert_eq!(run_overlaps(&runs[0], &runs[1], &asked), counted);
            let present: BTreeSet<u16> = a.iter().copied().filter(|label| *label > 0).collect();
            prop_assert_eq!(runs[0].labels(), present);
            let start = [start.0, start.1, start.2];
            let region = VoxelBox {
                start,
                end: [end.0.max(start[0] + 1), end.1.max(start[1] + 1), end.2.max(start[2] + 1)],
            };
            prop_assert_eq!(runs[0].recall_inside(&region), recall_inside(&maps[0], &region));
            let [z, y, x] = region.ranges_zyx();
            let mask = maps[0].data.slice(ndarray::s![z, y, x]).map(|label| *label == 2);
            let structures = runs[0].structures(&asked);
            prop_assert_eq!(structures[0].crop(&region), mask);
            for (label, structure) in asked.into_iter().zip(&structures) {
                let mask = maps[0].data.map(|at| *at == label);
                prop_assert_eq!(structure.runs().into_owned(), RunMask::of(mask.view()).runs().into_owned());
            }
            for (label, extent) in asked.into_iter().zip(runs[0].extents(&asked)) {
                let mut wanted = Extent::default();
                for ((z, y, x), _) in maps[0].data.indexed_iter().filter(|(_, at)| **at == label) {
                    wanted.add_run([x, y, z], 1);
                }
                prop_assert_eq!(extent, wanted);
            }
        }
    }
}
