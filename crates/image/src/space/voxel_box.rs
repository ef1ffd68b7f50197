//! Boxes of voxels.

use serde::{Deserialize, Serialize};

/// A half-open box of voxel indices, `start[i] <= index < end[i]`, axes in (x, y, z) order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoxelBox {
    /// The first voxel (x, y, z).
    pub start: [usize; 3],
    /// One past the last voxel along each axis (x, y, z).
    pub end: [usize; 3],
}

impl VoxelBox {
    /// The box of a whole grid with this shape.
    pub fn whole(shape: [usize; 3]) -> Self {
        Self {
            start: [0; 3],
            end: shape,
        }
    }

    /// Voxels along x, y, z.
    pub fn shape(&self) -> [usize; 3] {
        std::array::from_fn(|axis| self.end[axis].saturating_sub(self.start[axis]))
    }

    /// The number of voxels in the box.
    pub fn voxels(&self) -> usize {
        self.shape().into_iter().fold(1, usize::saturating_mul)
    }

    /// Whether there is no voxel in the box.
    pub fn is_empty(&self) -> bool {
        self.voxels() == 0
    }

    /// Whether the voxel is inside.
    pub fn contains(&self, voxel: [usize; 3]) -> bool {
        (0..3).all(|axis| (self.start[axis]..self.end[axis]).contains(&voxel[axis]))
    }

    /// The smallest box that contains both boxes.
    pub fn union(&self, other: &Self) -> Self {
        Self {
            start: std::array::from_fn(|axis| self.start[axis].min(other.start[axis])),
            end: std::array::from_fn(|axis| self.end[axis].max(other.end[axis])),
        }
    }

    /// The box as slice ranges for an array of shape (z, y, x).
    pub fn ranges_zyx(&self) -> [std::ops::Range<usize>; 3] {
        [2, 1, 0].map(|axis| self.start[axis]..self.end[axis])
    }

    /// The box grown by `voxels` on both sides of each axis, clipped to `shape`.
    pub fn grown(&self, voxels: [usize; 3], shape: [usize; 3]) -> Self {
        Self {
            start: std::array::from_fn(|axis| self.start[axis].saturating_sub(voxels[axis])),
            end: std::array::from_fn(|axis| {
                self.end[axis].saturating_add(voxels[axis]).min(shape[axis])
            }),
        }
    }
}
