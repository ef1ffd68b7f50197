//! Where a structure of a label map lies.

use crate::space::{Grid, VoxelBox};

/// How many voxels a structure has, and where they lie.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extent {
    /// Its number of voxels; 0 if the structure is absent.
    pub voxels: u64,
    index_sums: [u64; 3],
    /// The smallest box around them.
    pub bounds: Option<VoxelBox>,
}

impl Extent {
    /// Adds a run of `count` voxels along x that starts at `first` (x, y, z).
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
        self.bounds = Some(self.bounds.map_or(run, |bounds| bounds.union(&run)));
    }

    /// Adds the voxels of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.voxels += other.voxels;
        for (sum, more) in self.index_sums.iter_mut().zip(other.index_sums) {
            *sum += more;
        }
        self.bounds = match (self.bounds, other.bounds) {
            (Some(one), Some(other)) => Some(one.union(&other)),
            (one, other) => one.or(other),
        };
    }

    /// Mean of the voxel centres in world coordinates of `grid` (RAS+, mm); `None` without voxels.
    pub fn centroid_mm(&self, grid: &Grid) -> Option<[f64; 3]> {
        let voxels = self.voxels as f64;
        (self.voxels > 0).then(|| grid.world_mm(self.index_sums.map(|sum| sum as f64 / voxels)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_match_a_hand_count() {
        let grid = Grid::with_spacing([9, 5, 4], [2.0, 1.0, 3.0]);
        let mut found = Extent::default();
        assert_eq!((found.voxels, found.centroid_mm(&grid)), (0, None));
        found.add_run([4, 3, 2], 1);
        assert_eq!(found.centroid_mm(&grid), Some([8.0, 3.0, 6.0]));
        let mut other = Extent::default();
        other.add_run([0, 3, 2], 4);
        other.add_run([7, 0, 0], 0);
        found.merge(&other);
        assert_eq!(found.centroid_mm(&grid), Some([4.0, 3.0, 6.0]));
        let bounds = found.bounds.unwrap();
        assert_eq!(
            (found.voxels, bounds.start, bounds.end),
            (5, [0, 3, 2], [5, 4, 3])
        );
    }
}
