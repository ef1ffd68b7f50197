//! Connected components of masks.

pub use crate::connectivity::Connectivity;

use std::borrow::Cow;
use std::ops::Range;

use ndarray::{Array3, ArrayView3, ArrayViewMut1, ArrayViewMut3, s};

use super::run_length_mask::{Run, RunMask};

/// What decides whether a component is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Component {
    /// Its number of voxels.
    pub voxels: usize,
    /// Whether it touches the first or last index along z, y, x.
    pub at_border: [bool; 3],
}

/// Numbers the connected components of `mask` from 1 in the order of their first voxels (z slowest), with 0 outside,
/// as `scipy.ndimage.label`; also returns their sizes in voxels.
///
/// # Shapes
/// `mask`, output: (z, y, x); `sizes[i]` belongs to component `i + 1`
pub fn label_components(
    mask: ArrayView3<bool>,
    connectivity: Connectivity,
) -> (Array3<u32>, Vec<usize>) {
    let runs = RunMask::of(mask);
    let components = Components::find(&runs, connectivity);
    let mut labels = Array3::zeros(mask.raw_dim());
    for (run, number) in components.numbered() {
        components
            .voxels(run, &mut labels.view_mut())
            .fill(number as u32 + 1);
    }
    (labels, components.sizes)
}

/// Removes the components of `mask` that have fewer voxels than `smallest_fraction` (0 to 1) of the
/// largest one; returns the number of components kept.
///
/// 0 keeps all, 1 the largest (and others of exactly its size).
pub fn keep_components(
    mask: &mut Array3<bool>,
    smallest_fraction: f64,
    connectivity: Connectivity,
) -> usize {
    let runs = RunMask::of(mask.view());
    let components = Components::find(&runs, connectivity);
    let largest = components.sizes.iter().copied().max().unwrap_or(0);
    let smallest = smallest_fraction.min(1.0) * largest as f64;
    let kept: Vec<bool> = components
        .sizes
        .iter()
        .map(|size| *size as f64 >= smallest)
        .collect();
    components.clear_all_but(&kept, mask.view_mut());
    kept.into_iter().filter(|kept| *kept).count()
}

/// Keeps only the components of `mask` for which `wanted` is true; it is called in the order of first voxels.
///
/// # Shapes
/// `mask`: (z, y, x)
pub fn retain_components(
    mask: ArrayViewMut3<bool>,
    connectivity: Connectivity,
    wanted: impl FnMut(Component) -> bool,
) {
    let runs = RunMask::of(mask.view());
    let components = Components::find(&runs, connectivity);
    let kept: Vec<bool> = components
        .described(mask.dim())
        .into_iter()
        .map(wanted)
        .collect();
    components.clear_all_but(&kept, mask);
}

/// The number of voxels that each component of `mask` shares with `other`, in the order of first voxels. Time grows
/// with the runs of both, not with the box around them.
pub fn overlap_per_component(
    mask: &RunMask,
    other: &RunMask,
    connectivity: Connectivity,
) -> Vec<usize> {
    let components = Components::find(mask, connectivity);
    let mut overlaps = vec![0; components.sizes.len()];
    let others = other.runs();
    let mut next = 0;
    for (run, number) in components.numbered() {
        let start = (run.row, run.start);
        while others
            .get(next)
            .is_some_and(|other| (other.row, other.end) <= start)
        {
            next += 1;
        }
        let touching = others[next..].iter();
        let touching = touching.take_while(|other| (other.row, other.start) < (run.row, run.end));
        let shared = touching.map(|other| run.end.min(other.end) - run.start.max(other.start));
        overlaps[number] += shared.sum::<u32>() as usize;
    }
    overlaps
}

/// Runs along x, merged by union-find: memory grows with the surface, not with the volume.
struct Components<'a> {
    /// In the order of the voxels.
    runs: Cow<'a, [Run]>,
    /// Rows in a plane.
    height: usize,
    /// Each run's component, from 0.
    numbers: Vec<usize>,
    sizes: Vec<usize>,
}

impl<'a> Components<'a> {
    fn find(mask: &'a RunMask, connectivity: Connectivity) -> Self {
        let runs = mask.runs();
        let mut found = Self {
            numbers: (0..runs.len()).collect(),
            sizes: Vec::new(),
            height: mask.height(),
            runs,
        };
        let rows = found.rows();
        // Adjacent rows share faces, and edges one voxel further; diagonal rows share edges, and corners.
        let (adjacent, diagonal) = match connectivity {
            Connectivity::Six => (0, None),
            Connectivity::Eighteen => (1, Some(0)),
            Connectivity::TwentySix => (1, Some(1)),
        };
        found.join_all(&rows, [0, -1], adjacent);
        found.join_all(&rows, [-1, 0], adjacent);
        if let Some(diagonal) = diagonal {
            found.join_all(&rows, [-1, -1], diagonal);
            found.join_all(&rows, [-1, 1], diagonal);
        }
        found.number();
        found
    }

    /// The runs of each non-empty row.
    fn rows(&self) -> Vec<Range<usize>> {
        let mut start = 0;
        let rows = self.runs.chunk_by(|a, b| a.row == b.row);
        rows.map(|row| {
            let end = start + row.len();
            std::mem::replace(&mut start, end)..end
        })
        .collect()
    }

    /// Every run with its component.
    fn numbered(&self) -> impl Iterator<Item = (&Run, usize)> {
        self.runs.iter().zip(self.numbers.iter().copied())
    }

    /// The voxels of a run in an array of the mask's shape.
    fn voxels<'b, T>(&self, run: &Run, array: &'b mut ArrayViewMut3<T>) -> ArrayViewMut1<'b, T> {
        let (z, y) = (run.row / self.height, run.row % self.height);
        array.slice_mut(s![z, y, run.start as usize..run.end as usize])
    }

    fn described(&self, (depth, height, width): (usize, usize, usize)) -> Vec<Component> {
        let inside = |voxels: &usize| Component {
            voxels: *voxels,
            at_border: [false; 3],
        };
        let mut described: Vec<Component> = self.sizes.iter().map(inside).collect();
        for (run, number) in self.numbered() {
            let (z, y) = (run.row / self.height, run.row % self.height);
            let at_border = &mut described[number].at_border;
            at_border[0] |= z == 0 || z + 1 == depth;
            at_border[1] |= y == 0 || y + 1 == height;
            at_border[2] |= run.start == 0 || run.end as usize == width;
        }
        described
    }

    /// Clears the runs of `mask` (the mask that was searched) whose components are not `kept`.
    fn clear_all_but(&self, kept: &[bool], mut mask: ArrayViewMut3<bool>) {
        for (run, number) in self.numbered() {
            if !kept[number] {
                self.voxels(run, &mut mask).fill(false);
            }
        }
    }

    /// Joins each row's runs with those of the earlier row at offset `step` (z, y).
    fn join_all(&mut self, rows: &[Range<usize>], step: [isize; 2], reach: u32) {
        let place = |runs: &[Run], row: &Range<usize>| runs[row.start].row;
        let mut before = 0;
        for row in rows {
            let number = place(&self.runs, row);
            let y = (number % self.height).checked_add_signed(step[1]);
            let z = (number / self.height).checked_add_signed(step[0]);
            let Some((y, z)) = y.filter(|y| *y < self.height).zip(z) else {
                continue;
            };
            let wanted = z * self.height + y;
            while place(&self.runs, &rows[before]) < wanted {
                before += 1;
            }
            if place(&self.runs, &rows[before]) == wanted {
                self.join_rows(rows[before].clone(), row.clone(), reach);
            }
        }
    }

    /// Joins runs of two rows that overlap or, with `reach` 1, touch at their ends.
    fn join_rows(&mut self, mut a: Range<usize>, mut b: Range<usize>, reach: u32) {
        while !a.is_empty() && !b.is_empty() {
            let (first, second) = (self.runs[a.start], self.runs[b.start]);
            if first.start < second.end + reach && second.start < first.end + reach {
                self.join(a.start, b.start);
            }
            // Runs of a row have gaps between them: the one that ends first touches nothing further.
            if first.end <= second.end {
                a.start += 1;
            } else {
                b.start += 1;
            }
        }
    }

    fn root(&mut self, mut run: usize) -> usize {
        while self.numbers[run] != run {
            // Path halving keeps the trees flat.
            self.numbers[run] = self.numbers[self.numbers[run]];
            run = self.numbers[run];
        }
        run
    }

    /// The earlier run becomes the root, so that components come out in the order of first voxels.
    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.numbers[a.max(b)] = a.min(b);
    }

    /// Replaces roots by numbers from 0 and counts voxels.
    fn number(&mut self) {
        for run in 0..self.runs.len() {
            // Roots precede their runs, so they are already numbered.
            let parent = self.numbers[run];
            if parent == run {
                self.numbers[run] = self.sizes.len();
                self.sizes.push(0);
            } else {
                self.numbers[run] = self.numbers[parent];
            }
            self.sizes[self.numbers[run]] += self.runs[run].length();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Depth-first flood fill, voxel by voxel in raster order.
    fn flood(mask: &Array3<bool>, connectivity: Connectivity) -> (Array3<u32>, Vec<usize>) {
        let mut labels = Array3::zeros(mask.raw_dim());
        let mut sizes: Vec<usize> = Vec::new();
        for (seed, _) in mask.indexed_iter().filter(|(_, inside)| **inside) {
            if labels[seed] > 0 {
                continue;
            }
            sizes.push(0);
            let mut stack = vec![seed];
            while let Some((z, y, x)) = stack.pop() {
                if labels[(z, y, x)] > 0 {
                    continue;
                }
                labels[(z, y, x)] = sizes.len() as u32;
                *sizes.last_mut().unwrap() += 1;
                for step in 0..27usize {
                    let step = [step / 9, step / 3 % 3, step % 3];
                    let away: usize = step.iter().map(|s| s.abs_diff(1)).sum();
                    let next = (z + step[0], y + step[1], x + step[2]);
                    let next = (
                        next.0.wrapping_sub(1),
                        next.1.wrapping_sub(1),
                        next.2.wrapping_sub(1),
                    );
                    let furthest = match connectivity {
                        Connectivity::Six => 1,
                        Connectivity::Eighteen => 2,
                        Connectivity::TwentySix => 3,
                    };
                    let touches = away <= furthest;
                    if touches && mask.get(next).copied().unwrap_or(false) {
                        stack.push(next);
                    }
                }
            }
        }
        (labels, sizes)
    }

    #[test]
    fn corners_join_under_26_only() {
        let mut mask = Array3::from_elem((2, 2, 4), false);
        mask[[0, 0, 0]] = true;
        mask[[1, 1, 1]] = true;
        mask[[1, 1, 2]] = true;
        let (labels, sizes) = label_components(mask.view(), Connectivity::Six);
        assert_eq!(
            (labels[[0, 0, 0]], labels[[1, 1, 2]], sizes),
            (1, 2, vec![1, 2])
        );
        assert_eq!(
            label_components(mask.view(), Connectivity::TwentySix).1,
            [3]
        );
        assert_eq!(keep_components(&mut mask, 0.6, Connectivity::Six), 1);
        assert!(!mask[[0, 0, 0]] && mask[[1, 1, 1]] && mask[[1, 1, 2]]);
    }

    #[test]
    fn an_empty_mask_has_no_components() {
        let mut mask = Array3::from_elem((3, 0, 4), false);
        assert!(
            label_components(mask.view(), Connectivity::Six)
                .1
                .is_empty()
        );
        assert_eq!(keep_components(&mut mask, 1.0, Connectivity::TwentySix), 0);
        let mut mask = Array3::from_elem((3, 2, 4), false);
        assert_eq!(keep_components(&mut mask, 0.0, Connectivity::TwentySix), 0);
    }

    proptest! {
        #[test]
        fn components_match_a_flood_fill(
            shape in [1usize..7, 1usize..8, 1usize..11],
            voxels in proptest::collection::vec(0.0f64..1.0, 6 * 7 * 10),
            density in 0.05f64..0.95,
            fraction in 0.0f64..1.0,
        ) {
            let mut voxels = voxels.into_iter();
            let mask = Array3::from_shape_simple_fn(shape, || voxels.next().unwrap() < density);
            for connectivity in [Connectivity::Six, Connectivity::Eighteen, Connectivity::TwentySix] {
                let (labels, sizes) = label_components(mask.view(), connectivity);
                let (expected, expected_sizes) = flood(&mask, connectivity);
                prop_assert_eq!(&labels, &expected);
                prop_assert_eq!(&sizes, &expected_sizes);
                let largest = sizes.iter().max().copied().unwrap_or(0) as f64;
                let big = |label: u32| label > 0 && sizes[label as usize - 1] as f64 >= fraction * largest;
                let mut left = mask.clone();
                let kept = keep_components(&mut left, fraction, connectivity);
                prop_assert_eq!(left, labels.mapv(big));
                prop_assert_eq!(kept, sizes.iter().filter(|size| **size as f64 >= fraction * largest).count());
            }
        }
    }
}
