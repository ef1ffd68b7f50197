//! Run-length coded masks: the voxels inside, as runs along x.

use std::borrow::Cow;
use std::ops::Range;

use ndarray::{Array3, ArrayView3, s};

use crate::space::VoxelBox;

/// Consecutive voxels along x.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Run {
    /// z · (rows per plane) + y.
    pub row: usize,
    pub start: u32,
    pub end: u32,
}

impl Run {
    pub fn length(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether `next` starts where this run ends.
    fn touches(&self, next: &Self) -> bool {
        self.row == next.row && self.end == next.start
    }
}

/// A run-length coded mask of a volume. A compact structure of some 100,000 voxels takes about 10,000 runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunMask {
    shape_zyx: [usize; 3],
    /// In voxel order if `sorted`.
    runs: Vec<Run>,
    sorted: bool,
}

impl RunMask {
    /// An empty mask.
    pub fn empty(shape_zyx: [usize; 3]) -> Self {
        Self {
            shape_zyx,
            runs: Vec::new(),
            sorted: true,
        }
    }

    /// The voxels inside `mask`.
    ///
    /// # Shapes
    /// `mask`: (z, y, x)
    pub fn of(mask: ArrayView3<bool>) -> Self {
        let (depth, height, width) = mask.dim();
        let mut runs = Self::empty([depth, height, width]);
        for (row, voxels) in mask.rows().into_iter().enumerate() {
            runs.add_row(row, 0, voxels.iter().copied());
        }
        runs
    }

    /// An empty mask with capacity for `runs` runs.
    pub(super) fn with_capacity(shape_zyx: [usize; 3], runs: usize) -> Self {
        Self {
            runs: Vec::with_capacity(runs),
            ..Self::empty(shape_zyx)
        }
    }

    /// Adds the voxels of `region` (x, y, z) whose values are above `threshold`.
    ///
    /// # Shapes
    /// `values`: (z, y, x) of the region
    pub fn add(&mut self, region: &VoxelBox, values: ArrayView3<f32>, threshold: f32) {
        let [x, y, z] = region.start;
        for ((dz, dy), row) in (0..values.dim().0)
            .flat_map(|dz| (0..values.dim().1).map(move |dy| (dz, dy)))
            .zip(values.rows())
        {
            let number = (z + dz) * self.shape_zyx[1] + y + dy;
            self.add_row(number, x, row.iter().map(|value| *value > threshold));
        }
    }

    /// Adds the voxels of a row that are inside; the first is at column `x`.
    fn add_row(&mut self, row: usize, x: usize, inside: impl Iterator<Item = bool>) {
        let mut open: Option<usize> = None;
        for (dx, inside) in inside.chain(std::iter::once(false)).enumerate() {
            match (inside, open) {
                (true, None) => open = Some(dx),
                (false, Some(start)) => {
                    self.push(row, x + start, x + dx);
                    open = None;
                }
                _ => {}
            }
        }
    }

    pub(super) fn push(&mut self, row: usize, start: usize, end: usize) {
        let run = Run {
            row,
            start: start as u32,
            end: end as u32,
        };
        match self.runs.last_mut() {
            Some(last) if last.touches(&run) => last.end = run.end,
            Some(last) if *last >= run => {
                self.sorted = false;
                self.runs.push(run);
            }
            _ => self.runs.push(run),
        }
    }

    /// Whether the mask has no voxels.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The number of voxels inside.
    pub fn voxels(&self) -> usize {
        self.runs.iter().map(Run::length).sum()
    }

    /// The smallest box around the mask; `None` if it is empty.
    pub fn bounds(&self) -> Option<VoxelBox> {
        let height = self.height();
        let boxes = self.runs.iter().map(|run| {
            let (z, y) = (run.row / height, run.row % height);
            VoxelBox {
                start: [run.start as usize, y, z],
                end: [run.end as usize, y + 1, z + 1],
            }
        });
        boxes.reduce(|one, other| one.union(&other))
    }

    /// Every run in voxel order: its first voxel (x, y, z) and its length along x.
    pub fn in_order(&mut self) -> impl Iterator<Item = ([usize; 3], usize)> + '_ {
        self.sort();
        let height = self.height();
        self.runs.iter().map(move |run| {
            let first = [run.start as usize, run.row % height, run.row / height];
            (first, run.length())
        })
    }

    /// Every run in voxel order, merged: runs of a row have gaps between them.
    pub(crate) fn runs(&self) -> Cow<'_, [Run]> {
        if self.sorted {
            return Cow::Borrowed(&self.runs);
        }
        let mut ordered = self.clone();
        ordered.sort();
        Cow::Owned(ordered.runs)
    }

    /// Rows per plane.
    pub(crate) fn height(&self) -> usize {
        self.shape_zyx[1].max(1)
    }

    /// Sorts the runs into voxel order, as [`RunMask::mark`] requires.
    pub fn sort(&mut self) {
        if !self.sorted {
            self.runs.sort_unstable();
            self.runs.dedup_by(|next, kept| {
                let touches = kept.touches(next);
                if touches {
                    kept.end = next.end;
                }
                touches
            });
            self.sorted = true;
        }
    }

    /// Sets the voxels inside to 1 in a buffer for the range `voxels` (x fastest), which holds zeros. Call
    /// [`RunMask::sort`] first.
    pub fn mark(&self, voxels: Range<usize>, mask: &mut [u8]) {
        debug_assert!(self.sorted);
        let width = self.shape_zyx[2];
        let ends_before = |run: &Run| run.row * width + run.end as usize <= voxels.start;
        let first = self.runs.partition_point(ends_before);
        for run in &self.runs[first..] {
            let start = (run.row * width + run.start as usize).max(voxels.start);
            let end = (run.row * width + run.end as usize).min(voxels.end);
            if start >= end {
                break;
            }
            mask[start - voxels.start..end - voxels.start].fill(1);
        }
    }

    /// The part inside `region`, shape (z, y, x).
    pub fn crop(&self, region: &VoxelBox) -> Array3<bool> {
        let [z, y, x] = region.ranges_zyx();
        let mut cropped = Array3::from_elem([z.len(), y.len(), x.len()], false);
        let height = self.height();
        for run in &self.runs {
            let (plane, row) = (run.row / height, run.row % height);
            if z.contains(&plane) && y.contains(&row) {
                let (from, to) = (
                    (run.start as usize).max(x.start),
                    (run.end as usize).min(x.end),
                );
                if from < to {
                    let columns = from - x.start..to - x.start;
                    cropped
                        .slice_mut(s![plane - z.start, row - y.start, columns])
                        .fill(true);
                }
            }
        }
        cropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::s;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn masks_round_trip(
            values in prop::collection::vec(0.0f32..1.0, 3 * 4 * 7),
            axis in 0usize..3,
            cut in 1usize..3,
            backwards: bool,
        ) {
            let values = Array3::from_shape_vec((3, 4, 7), values).unwrap();
            let mut mask = RunMask::empty([3, 4, 7]);
            prop_assert!(mask.is_empty());
            // In two parts across some axis, in any order.
            let ends = [7, 4, 3];
            let mut parts = [0..cut, cut..ends[axis]];
            if backwards {
                parts.reverse();
            }
            for part in parts {
                let mut region = VoxelBox::whole(ends);
                (region.start[axis], region.end[axis]) = (part.start, part.end);
                let [z, y, x] = region.ranges_zyx();
                mask.add(&region, values.slice(s![z, y, x]), 0.5);
            }
            let whole = RunMask::of(values.mapv(|value| value > 0.5).view());
            prop_assert_eq!(mask.runs().into_owned(), whole.runs().into_owned());
            let expected: Vec<u8> = values.iter().map(|v| u8::from(*v > 0.5)).collect();
            mask.sort();
            for range in [0..84, 5..6, 11..62, 84..84] {
                let mut marked = vec![0; range.len()];
                mask.mark(range.clone(), &mut marked);
                prop_assert_eq!(&marked, &expected[range]);
            }
            let inside: Vec<[usize; 3]> = values
                .indexed_iter()
                .filter(|(_, value)| **value > 0.5)
                .map(|((z, y, x), _)| [x, y, z])
                .collect();
            let listed = mask.in_order().flat_map(|([x, y, z], count)| (x..x + count).map(move |x| [x, y, z]));
            prop_assert_eq!(listed.collect::<Vec<_>>(), inside.clone());
            let bounds = mask.bounds();
            prop_assert_eq!(bounds.is_none(), inside.is_empty());
            if let Some(bounds) = bounds {
                for axis in 0..3 {
                    let along = inside.iter().map(|voxel| voxel[axis]);
                    prop_assert_eq!(bounds.start[axis], along.clone().min().unwrap());
                    prop_assert_eq!(bounds.end[axis], along.max().unwrap() + 1);
                }
            }
            let middle = VoxelBox { start: [1, 0, 1], end: [6, 3, 3] };
            let [z, y, x] = middle.ranges_zyx();
            prop_assert_eq!(mask.crop(&middle), values.slice(s![z, y, x]).mapv(|value| value > 0.5));
            prop_assert_eq!(mask.voxels(), expected.iter().map(|v| usize::from(*v)).sum::<usize>());
        }
    }
}
