//! Where the structures of a label map lie.

use ndarray::Axis;
use rayon::prelude::*;

use crate::values::{Grid, LabelMap, VoxelBox};

/// A structure's voxels, as far as their places go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extent {
    pub voxels: u64,
    index_sums: [u64; 3],
    /// The smallest box that holds them.
    pub bounds: Option<VoxelBox>,
}

impl Extent {
    /// Adds `count` voxels side by side along x, of which `first` (x, y, z) is the first.
    pub fn add_run(&mut self, first: [usize; 3], count: usize) {
        let Some(last) = count.checked_sub(1) else {
            return;
        };
        let [x, y, z] = first;
        self.voxels += count as u64;
        self.index_sums[0] += (count * x + count * last / 2) as u64;
        self.index_sums[1] += (count * y) as u64;
        self.index_sums[2] += (count * z) as u64;
        let run = VoxelBox {
            start: first,
            end: [x + count, y + 1, z + 1],
        };
        self.bounds = Some(self.bounds.map_or(run, |bounds| bounds.joined(&run)));
    }

    pub fn join(&mut self, other: &Self) {
        self.voxels += other.voxels;
        for (sum, more) in self.index_sums.iter_mut().zip(other.index_sums) {
            *sum += more;
        }
        self.bounds = match (self.bounds, other.bounds) {
            (Some(one), Some(other)) => Some(one.joined(&other)),
            (one, other) => one.or(other),
        };
    }

    /// Mean of the voxels' centres in the world of `grid`, RAS+; none without voxels.
    pub fn centroid_mm(&self, grid: &Grid) -> Option<[f64; 3]> {
        let voxels = self.voxels as f64;
        (self.voxels > 0).then(|| grid.world_mm(self.index_sums.map(|sum| sum as f64 / voxels)))
    }
}

/// The extents of the structures with these `labels` (none of them 0), in their order.
pub fn extents(map: &LabelMap, labels: &[u16]) -> Vec<Extent> {
    let mut slot_of = vec![usize::MAX; usize::from(u16::MAX) + 1];
    for (slot, label) in labels.iter().enumerate().filter(|(_, label)| **label > 0) {
        slot_of[usize::from(*label)] = slot;
    }
    let nothing = || vec![Extent::default(); labels.len()];
    map.data
        .axis_iter(Axis(0))
        .into_par_iter()
        .enumerate()
        .fold(nothing, |mut found, (z, slice)| {
            for (y, row) in slice.rows().into_iter().enumerate() {
                let mut x = 0;
                while x < row.len() {
                    let label = row[x];
                    let run = row.iter().skip(x).take_while(|other| **other == label);
                    let count = run.count();
                    if let Some(extent) = found.get_mut(slot_of[usize::from(label)]) {
                        extent.add_run([x, y, z], count);
                    }
                    x += count;
                }
            }
            found
        })
        .reduce(nothing, |mut whole, part| {
            whole
                .iter_mut()
                .zip(&part)
                .for_each(|(whole, part)| whole.join(part));
            whole
        })
}

#[cfg(test)]
mod tests {
    use ndarray::s;

    use super::*;

    #[test]
    fn extents_are_those_counted_voxel_by_voxel() {
        let grid = Grid::with_spacing([9, 5, 4], [2.0, 1.0, 3.0]);
        let mut map = LabelMap::empty(grid);
        map.data.slice_mut(s![1..3, 2..5, 3..9]).fill(300);
        map.data[(0, 0, 0)] = 300;
        map.data[(2, 3, 4)] = 7;
        let found = extents(&map, &[7, 300, 8]);
        for (label, found) in [7u16, 300, 8].into_iter().zip(&found) {
            let mut wanted = Extent::default();
            for ((z, y, x), _) in map.data.indexed_iter().filter(|(_, at)| **at == label) {
                wanted.add_run([x, y, z], 1);
            }
            assert_eq!(*found, wanted, "{label}");
        }
        assert_eq!(found[0].centroid_mm(&grid), Some([8.0, 3.0, 6.0]));
        let bounds = found[1].bounds.unwrap();
        assert_eq!((bounds.start, bounds.end), ([0, 0, 0], [9, 5, 3]));
        assert_eq!((found[2].voxels, found[2].centroid_mm(&grid)), (0, None));
    }
}
