//! Arrays with a grid: volumes and label maps.

use std::collections::BTreeMap;

use ndarray::Array3;

use super::{Grid, VoxelBox};

/// Intensities on a grid. `data` has shape (z, y, x), x fastest: the order of a NIfTI file.
#[derive(Debug, Clone)]
pub struct Volume {
    /// Where the voxels lie.
    pub grid: Grid,
    /// Hounsfield units for CT; shape (z, y, x).
    pub data: Array3<f32>,
}

/// Structure labels on a grid, 0 = background. `data` has shape (z, y, x), x fastest.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelMap {
    /// Where the voxels lie.
    pub grid: Grid,
    /// One label per voxel; shape (z, y, x).
    pub data: Array3<u16>,
}

impl Volume {
    /// Bytes of the voxels in memory.
    pub fn bytes(&self) -> usize {
        self.data.len() * size_of::<f32>()
    }
}

impl LabelMap {
    /// A label map of background on `grid`.
    pub fn empty(grid: Grid) -> Self {
        let data = Array3::zeros(grid.shape_zyx());
        Self { grid, data }
    }

    /// Sets every voxel where `mask` is not 0 to `value`; returns how many voxels of each label were overwritten.
    ///
    /// # Panics
    /// The shapes differ.
    pub fn overlay(&mut self, mask: &LabelMap, value: u16) -> BTreeMap<u16, usize> {
        let mut overlapping = BTreeMap::new();
        ndarray::Zip::from(&mut self.data)
            .and(&mask.data)
            .for_each(|label, mask| {
                if *mask != 0 {
                    if *label != 0 {
                        *overlapping.entry(*label).or_insert(0) += 1;
                    }
                    *label = value;
                }
            });
        overlapping
    }

    /// Where the label is `label`; shape (z, y, x).
    pub fn mask(&self, label: u16) -> Array3<bool> {
        self.data.mapv(|voxel| voxel == label)
    }

    /// The smallest box around all voxels whose label satisfies `wanted`; `None` if there are none.
    pub fn bounding_box(&self, wanted: impl Fn(u16) -> bool) -> Option<VoxelBox> {
        let mut start = [usize::MAX; 3];
        let mut end = [0; 3];
        for ((z, y, x), &label) in self.data.indexed_iter() {
            if wanted(label) {
                for (axis, index) in [x, y, z].into_iter().enumerate() {
                    start[axis] = start[axis].min(index);
                    end[axis] = end[axis].max(index + 1);
                }
            }
        }
        (end[0] > 0).then_some(VoxelBox { start, end })
    }

    /// Bytes of the voxels in memory.
    pub fn bytes(&self) -> usize {
        self.data.len() * size_of::<u16>()
    }
}
