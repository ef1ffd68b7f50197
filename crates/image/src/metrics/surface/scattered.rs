//! Surface distances of sparse masks: time grows with their voxels, unlike [`super::nearest`], where it grows with the
//! box around them.

use super::elements::{Element, is_surface};
use crate::labels::run_length_mask::{Run, RunMask};

/// A voxel corner that a surface passes through.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Corner {
    /// (z, y, x).
    at: [u32; 3],
    /// See [`neighbour_codes`](super::elements::neighbour_codes).
    code: u8,
}

/// The surface corners of `mask`, sorted by (z, y, x).
pub fn corners(mask: &RunMask) -> Vec<Corner> {
    let runs = mask.runs();
    let height = mask.height();
    let mut rows: Vec<&[Run]> = runs.chunk_by(|a, b| a.row == b.row).collect();
    rows.push(&[]);
    // A row of voxels touches four rows of corners; each of the four streams visits rows in order.
    let shifts = [[0, 0], [0, 1], [1, 0], [1, 1]];
    let mut next = [0; 4];
    let place = |row: &[Run], [z, y]: [usize; 2]| {
        let row = row.first()?.row;
        Some([row / height + z, row % height + y])
    };
    let (mut found, mut bits) = (Vec::new(), Vec::new());
    loop {
        let places: [Option<[usize; 2]>; 4] =
            std::array::from_fn(|stream| place(rows[next[stream]], shifts[stream]));
        let Some(first) = places.into_iter().flatten().min() else {
            return found;
        };
        bits.clear();
        for stream in 0..4 {
            if places[stream] == Some(first) {
                let [z, y] = shifts[stream];
                // Voxels before the corner have the higher bits: x first, then y, then z.
                mark(
                    &mut bits,
                    rows[next[stream]],
                    128 >> (2 * (1 - y) + (1 - z)),
                );
                next[stream] += 1;
            }
        }
        bits.sort_unstable_by_key(|(x, _)| *x);
        for same in bits.chunk_by(|a, b| a.0 == b.0) {
            let code = same.iter().fold(0, |code, (_, bits)| code | bits);
            if is_surface(code) {
                let at = [first[0] as u32, first[1] as u32, same[0].0];
                found.push(Corner { at, code });
            }
        }
    }
}

/// The bits of a row of voxels at adjacent corners: `before_x` for corners after the voxel.
fn mark(bits: &mut Vec<(u32, u8)>, row: &[Run], before_x: u8) {
    for run in row {
        bits.push((run.start, before_x >> 4));
        let inside = run.start + 1..run.end;
        bits.extend(inside.map(|x| (x, before_x | (before_x >> 4))));
        bits.push((run.end, before_x));
    }
}

/// For every element of surface `from`, its area and its distance to the nearest element of surface `to`; infinite if
/// there is none. `areas_mm2` is indexed by code; voxels have `spacing_mm` (x, y, z).
pub fn distances(
    from: &[Corner],
    to: &[Corner],
    areas_mm2: &[f64; 256],
    spacing_mm: [f64; 3],
) -> Vec<Element> {
    let mut tree = None;
    let mut others = to.iter().map(|corner| corner.at).peekable();
    let mut last = 0;
    let of = |corner: &Corner| {
        while others.next_if(|other| *other < corner.at).is_some() {}
        let distance_mm = if others.peek() == Some(&corner.at) {
            0.0
        } else if to.is_empty() {
            f64::INFINITY
        } else {
            let tree = tree.get_or_insert_with(|| Tree::new(to, spacing_mm));
            // Adjacent corners mostly share the nearest element.
            let mut best = Nearest {
                squared_mm: tree.squared(last, corner.at),
                point: last,
            };
            tree.search(0, to.len(), corner.at, &mut best);
            last = best.point;
            best.squared_mm.sqrt()
        };
        Element {
            distance_mm,
            area_mm2: areas_mm2[usize::from(corner.code)],
        }
    };
    from.iter().map(of).collect()
}

/// Points per leaf of [`Tree`], searched linearly.
const LEAF: usize = 8;

/// A k-d tree (Bentley, "Multidimensional binary search trees used for associative searching", CACM 1975): the median
/// of each part splits it along `axes[median]`.
struct Tree {
    points: Vec<[u32; 3]>,
    axes: Vec<u8>,
    /// (z, y, x).
    steps_mm: [f64; 3],
}

/// The nearest point found so far, and its squared distance.
struct Nearest {
    squared_mm: f64,
    point: usize,
}

impl Tree {
    fn new(corners: &[Corner], [x, y, z]: [f64; 3]) -> Self {
        let mut tree = Self {
            points: corners.iter().map(|corner| corner.at).collect(),
            axes: vec![0; corners.len()],
            steps_mm: [z, y, x],
        };
        tree.split(0, corners.len());
        tree
    }

    fn split(&mut self, start: usize, end: usize) {
        if end - start <= LEAF {
            return;
        }
        let part = &mut self.points[start..end];
        let width_mm = |axis: usize| {
            let positions = part.iter().map(|point| point[axis]);
            let (low, high) =
                positions.fold((u32::MAX, 0), |(low, high), at| (low.min(at), high.max(at)));
            f64::from(high - low) * self.steps_mm[axis]
        };
        let widths_mm = [0, 1, 2].map(width_mm);
        let axis = (1..3).fold(0, |widest, axis| {
            if widths_mm[axis] > widths_mm[widest] {
                axis
            } else {
                widest
            }
        });
        let middle = part.len() / 2;
        part.select_nth_unstable_by_key(middle, |point| point[axis]);
        let middle = start + middle;
        self.axes[middle] = axis as u8;
        self.split(start, middle);
        self.split(middle + 1, end);
    }

    /// Squared distance, summed in the same order (x, y, z) as in [`super::nearest`], so that the last bit agrees.
    fn squared(&self, point: usize, from: [u32; 3]) -> f64 {
        let to = self.points[point];
        let [z, y, x] = [0, 1, 2].map(|axis| self.squared_along(axis, from[axis], to[axis]));
        x + y + z
    }

    fn squared_along(&self, axis: usize, from: u32, to: u32) -> f64 {
        let mm = f64::from(from.abs_diff(to)) * self.steps_mm[axis];
        mm * mm
    }

    /// Searches the points from `start` to `end` for one nearer than `best`.
    fn search(&self, start: usize, end: usize, from: [u32; 3], best: &mut Nearest) {
        if end - start <= LEAF {
            for point in start..end {
                self.visit(point, from, best);
            }
            return;
        }
        let middle = start + (end - start) / 2;
        let axis = usize::from(self.axes[middle]);
        let border = self.points[middle][axis];
        self.visit(middle, from, best);
        let (lower, upper) = ((start, middle), (middle + 1, end));
        let (near, far) = match from[axis] < border {
            true => (lower, upper),
            false => (upper, lower),
        };
        self.search(near.0, near.1, from, best);
        if self.squared_along(axis, from[axis], border) < best.squared_mm {
            self.search(far.0, far.1, from, best);
        }
    }

    fn visit(&self, point: usize, from: [u32; 3], best: &mut Nearest) {
        let squared_mm = self.squared(point, from);
        if squared_mm < best.squared_mm {
            *best = Nearest { squared_mm, point };
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;
    use proptest::prelude::*;

    use super::super::elements::neighbour_codes;
    use super::*;
    use crate::metrics::surface::SurfaceDistances;

    proptest! {
        /// Surfaces and distances from runs equal those from voxels.
        #[test]
        fn surfaces_from_runs_equal_surfaces_from_voxels(
            shape in (1usize..7, 1usize..8, 1usize..12),
            voxels in prop::collection::vec(0.0f64..1.0, 2 * 6 * 7 * 11),
            density in 0.0f64..0.9,
            // Squares and sums of these spacings are exact.
            spacing_mm in prop::array::uniform3(prop::sample::select(vec![0.5, 1.0, 1.25, 3.0])),
        ) {
            let mut voxels = voxels.into_iter();
            let masks = [(), ()].map(|()| {
                Array3::from_shape_simple_fn(shape, || voxels.next().unwrap() < density * density)
            });
            let runs = [&masks[0], &masks[1]].map(|mask| RunMask::of(mask.view()));
            for (mask, runs) in masks.iter().zip(&runs) {
                let codes = neighbour_codes(mask.view());
                let wanted = codes.indexed_iter().filter(|(_, code)| is_surface(**code));
                let wanted: Vec<Corner> = wanted
                    .map(|((z, y, x), code)| Corner { at: [z, y, x].map(|at| at as u32), code: *code })
                    .collect();
                prop_assert_eq!(corners(runs), wanted);
            }
            let whole = SurfaceDistances::between(masks[0].view(), masks[1].view(), spacing_mm);
            let scattered = SurfaceDistances::between_scattered(&runs[0], &runs[1], spacing_mm);
            prop_assert_eq!(whole, scattered);
        }
    }
}
