//! One binary mask per structure.

use std::ops::Range;

use ctseg_image::space::LabelMap;

/// The voxels of structures: one label per voxel, or masks that may overlap.
pub trait StructureMasks: Sync {
    /// Sets `mask` to 1 for the structure's voxels in the range `voxels` (x fastest); the others are 0 already.
    fn mark(&self, label: u16, voxels: Range<usize>, mask: &mut [u8]);
}

impl StructureMasks for LabelMap {
    fn mark(&self, label: u16, voxels: Range<usize>, mask: &mut [u8]) {
        let (_, ny, nx) = self.data.dim();
        match self.data.as_slice() {
            Some(all) => {
                let labels = all.get(voxels).unwrap_or_default();
                for (mask, found) in mask.iter_mut().zip(labels) {
                    *mask = u8::from(*found == label);
                }
            }
            None => {
                for (mask, voxel) in mask.iter_mut().zip(voxels) {
                    let at = [voxel / (nx * ny), voxel / nx % ny, voxel % nx];
                    *mask = u8::from(self.data[at] == label);
                }
            }
        }
    }
}
