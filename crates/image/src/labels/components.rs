//! Connected components of masks.

pub use crate::connectivity::Connectivity;

use ndarray::{Array3, ArrayView3, ArrayViewMut3};

/// What is known of a component when it is decided whether it stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Component {
    pub voxels: usize,
    /// Whether it reaches the first or last index along z, y, x.
    pub at_border: [bool; 3],
}

/// Numbers the connected components of `mask` from 1 in the order of their first voxels (z slowest),
/// with their sizes in voxels; 0 is outside, as `scipy.ndimage.label`.
///
/// # Shapes
/// `mask`, output: (z, y, x); `sizes[i]` belongs to component `i + 1`
pub fn label_components(
    mask: ArrayView3<bool>,
    connectivity: Connectivity,
) -> (Array3<u32>, Vec<usize>) {
    let components = Components::find(mask, connectivity);
    let mut labels = Array3::zeros(mask.raw_dim());
    for (row, mut voxels) in labels.rows_mut().into_iter().enumerate() {
        for run in components.runs_of(row) {
            let label = components.numbers[run] as u32 + 1;
            let Run { start, end } = components.runs[run];
            voxels
                .iter_mut()
                .take(end)
                .skip(start)
                .for_each(|to| *to = label);
        }
    }
    (labels, components.sizes)
}

/// Removes the components of `mask` that have fewer voxels than `smallest_fraction` (0 to 1) of the
/// largest one; returns how many components are left.
///
/// 0 keeps all, 1 the largest (and others of exactly its size).
pub fn keep_components(
    mask: &mut Array3<bool>,
    smallest_fraction: f64,
    connectivity: Connectivity,
) -> usize {
    let components = Components::find(mask.view(), connectivity);
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

/// Removes the components of `mask` that `wanted` does not hold for; it is asked in the order of first voxels.
///
/// # Shapes
/// `mask`: (z, y, x)
pub fn retain_components(
    mask: ArrayViewMut3<bool>,
    connectivity: Connectivity,
    wanted: impl FnMut(Component) -> bool,
) {
    let components = Components::find(mask.view(), connectivity);
    let kept: Vec<bool> = components
        .described(mask.dim())
        .into_iter()
        .map(wanted)
        .collect();
    components.clear_all_but(&kept, mask);
}

/// How many voxels of each component of `mask` lie in `other`, in the order of first voxels.
///
/// # Shapes
/// Masks: (z, y, x), of one shape
pub fn shares_of_components(
    mask: ArrayView3<bool>,
    other: ArrayView3<bool>,
    connectivity: Connectivity,
) -> Vec<usize> {
    let components = Components::find(mask, connectivity);
    let mut shares = vec![0; components.sizes.len()];
    for (row, voxels) in other.rows().into_iter().enumerate() {
        for run in components.runs_of(row) {
            let Run { start, end } = components.runs[run];
            let shared = voxels.iter().take(end).skip(start);
            shares[components.numbers[run]] += shared.filter(|inside| **inside).count();
        }
    }
    shares
}

/// Voxels `start..end` of a row, all inside.
#[derive(Debug, Clone, Copy)]
struct Run {
    start: usize,
    end: usize,
}

/// Runs along x, joined by union-find: memory grows with the surface, not with the volume.
struct Components {
    runs: Vec<Run>,
    /// The first run of each row, and at the end the number of runs; rows are counted y fastest.
    row_starts: Vec<usize>,
    /// Each run's component, from 0.
    numbers: Vec<usize>,
    sizes: Vec<usize>,
}

impl Components {
    fn find(mask: ArrayView3<bool>, connectivity: Connectivity) -> Self {
        let (runs, row_starts) = runs_of_rows(mask);
        let mut found = Self {
            numbers: (0..runs.len()).collect(),
            sizes: Vec::new(),
            runs,
            row_starts,
        };
        let (depth, height, _) = mask.dim();
        for z in 0..depth {
            for y in 0..height {
                found.join_row(z, y, height, connectivity);
            }
        }
        found.number();
        found
    }

    fn runs_of(&self, row: usize) -> std::ops::Range<usize> {
        self.row_starts[row]..self.row_starts[row + 1]
    }

    fn described(&self, (depth, height, width): (usize, usize, usize)) -> Vec<Component> {
        let inside = |voxels: &usize| Component {
            voxels: *voxels,
            at_border: [false; 3],
        };
        let mut described: Vec<Component> = self.sizes.iter().map(inside).collect();
        for row in 0..depth * height {
            let (z, y) = (row / height, row % height);
            let (first_or_last_z, first_or_last_y) =
                (z == 0 || z + 1 == depth, y == 0 || y + 1 == height);
            for run in self.runs_of(row) {
                let Run { start, end } = self.runs[run];
                let at_border = &mut described[self.numbers[run]].at_border;
                at_border[0] |= first_or_last_z;
                at_border[1] |= first_or_last_y;
                at_border[2] |= start == 0 || end == width;
            }
        }
        described
    }

    /// Empties the runs of `mask`, which this was found in, whose components are not `kept`.
    fn clear_all_but(&self, kept: &[bool], mut mask: ArrayViewMut3<bool>) {
        for (row, mut voxels) in mask.rows_mut().into_iter().enumerate() {
            for run in self.runs_of(row) {
                if !kept[self.numbers[run]] {
                    let Run { start, end } = self.runs[run];
                    voxels
                        .iter_mut()
                        .take(end)
                        .skip(start)
                        .for_each(|to| *to = false);
                }
            }
        }
    }

    /// Joins a row's runs with those of the neighbouring rows before it.
    fn join_row(&mut self, z: usize, y: usize, height: usize, connectivity: Connectivity) {
        let row = z * height + y;
        let mut join = |before: usize, reach| self.join_rows(before, row, reach);
        // Rows beside each other share faces, and edges one voxel on; rows across share edges, and corners.
        let (beside, across) = match connectivity {
            Connectivity::Six => (0, None),
            Connectivity::Eighteen => (1, Some(0)),
            Connectivity::TwentySix => (1, Some(1)),
        };
        if y > 0 {
            join(row - 1, beside);
        }
        if z > 0 {
            join(row - height, beside);
            if let Some(across) = across {
                if y > 0 {
                    join(row - height - 1, across);
                }
                if y + 1 < height {
                    join(row - height + 1, across);
                }
            }
        }
    }

    /// Joins runs of two rows that overlap, or with `reach` 1 touch at their ends.
    fn join_rows(&mut self, before: usize, row: usize, reach: usize) {
        let (mut a, mut b) = (self.runs_of(before), self.runs_of(row));
        while !a.is_empty() && !b.is_empty() {
            let (first, second) = (self.runs[a.start], self.runs[b.start]);
            if first.start < second.end + reach && second.start < first.end + reach {
                self.join(a.start, b.start);
            }
            // Runs of a row have a gap between them: the one that ends first can touch nothing further.
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
            // Roots come before their runs, so theirs are numbers already.
            let parent = self.numbers[run];
            if parent == run {
                self.numbers[run] = self.sizes.len();
                self.sizes.push(0);
            } else {
                self.numbers[run] = self.numbers[parent];
            }
            let Run { start, end } = self.runs[run];
            self.sizes[self.numbers[run]] += end - start;
        }
    }
}

fn runs_of_rows(mask: ArrayView3<bool>) -> (Vec<Run>, Vec<usize>) {
    let mut runs = Vec::new();
    let mut row_starts = vec![0];
    for row in mask.rows() {
        let mut open = None;
        for (x, inside) in row.iter().enumerate() {
            match (inside, open) {
                (true, None) => open = Some(x),
                (false, Some(start)) => {
                    runs.push(Run { start, end: x });
                    open = None;
                }
                _ => {}
            }
        }
        if let Some(start) = open {
            let end = row.len();
            runs.push(Run { start, end });
        }
        row_starts.push(runs.len());
    }
    (runs, row_starts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Depth-first filling, voxel by voxel in raster order.
    fn flood(mask: &Array3<bool>, connectivity: Connectivity) -> (Array3<u32>, Vec<usize>) {
        let mut labels = Array3::zeros(mask.raw_dim());
        let mut sizes: Vec<usize> = Vec::new();
        for (seed, _) in mask.indexed_iter().filter(|(_, inside)| **inside) {
            if labels[seed] > 0 {
                continue;
            }
            sizes.push(0);
            let mut waiting = vec![seed];
            while let Some((z, y, x)) = waiting.pop() {
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
                        waiting.push(next);
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
        fn components_are_those_of_a_flood_fill(
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
