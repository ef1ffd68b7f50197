//! Masks that take little memory: what lies inside, as runs along x.

use ndarray::ArrayView3;

use crate::values::VoxelBox;

/// Voxels side by side along x.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Run {
    /// z · (rows per plane) + y
    row: usize,
    start: u32,
    end: u32,
}

/// A mask of a volume. Structures are compact: a mask of some hundred thousand voxels takes some ten thousand runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunMask {
    shape_zyx: [usize; 3],
    /// In the order of the voxels, as far as `sorted`.
    runs: Vec<Run>,
    sorted: bool,
}

impl RunMask {
    /// With nothing inside.
    pub fn empty(shape_zyx: [usize; 3]) -> Self {
        Self {
            shape_zyx,
            runs: Vec::new(),
            sorted: true,
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
            let mut begun: Option<usize> = None;
            for (dx, value) in row
                .iter()
                .chain(std::iter::once(&f32::NEG_INFINITY))
                .enumerate()
            {
                match (*value > threshold, begun) {
                    (true, None) => begun = Some(dx),
                    (false, Some(start)) => {
                        self.push(number, x + start, x + dx);
                        begun = None;
                    }
                    _ => {}
                }
            }
        }
    }

    fn push(&mut self, row: usize, start: usize, end: usize) {
        let run = Run {
            row,
            start: start as u32,
            end: end as u32,
        };
        self.sorted &= self.runs.last().is_none_or(|last| *last < run);
        self.runs.push(run);
    }

    /// Whether nothing is inside.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// How many voxels are inside.
    pub fn voxels(&self) -> usize {
        self.runs
            .iter()
            .map(|run| (run.end - run.start) as usize)
            .sum()
    }

    /// The voxels in their order (x fastest): 1 inside, 0 outside.
    pub fn voxels_in_order(&mut self) -> impl Iterator<Item = u8> + '_ {
        if !self.sorted {
            self.runs.sort_unstable();
            self.sorted = true;
        }
        let width = self.shape_zyx[2];
        let total: usize = self.shape_zyx.iter().product();
        let mut runs = self.runs.iter().peekable();
        (0..total).map(move |voxel| {
            while let Some(run) = runs.peek() {
                if run.row * width + run.end as usize <= voxel {
                    runs.next();
                } else {
                    return u8::from(run.row * width + run.start as usize <= voxel);
                }
            }
            0
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array3, s};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out(
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
            let expected: Vec<u8> = values.iter().map(|v| u8::from(*v > 0.5)).collect();
            prop_assert_eq!(mask.voxels_in_order().collect::<Vec<_>>(), expected.clone());
            prop_assert_eq!(mask.voxels(), expected.iter().map(|v| usize::from(*v)).sum::<usize>());
        }
    }
}
