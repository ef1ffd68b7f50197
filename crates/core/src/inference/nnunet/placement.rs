//! Placement of an nnU-Net network's grid in a volume: `DefaultPreprocessor`'s transposition, crop and new shape.

use ndarray::parallel::prelude::*;
use ndarray::{Array3, ArrayView3};

use crate::recipe::{NnunetConfig, Recipe, header_spacing_mm};
use ctseg_image::space::{Grid, Volume, VoxelBox};

/// The network's grid in a volume.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placement {
    /// The crop, in the source's voxels.
    pub region: VoxelBox,
    /// The crop's own voxels, in the network's axis order.
    pub native: Grid,
    /// The network's grid.
    pub grid: Grid,
}

impl Placement {
    /// For a crop of the source.
    pub fn new(recipe: &Recipe, nnunet: &NnunetConfig, source: &Grid, region: VoxelBox) -> Self {
        let orientation = nnunet.orientation(source);
        let native = source.cropped(&region).reoriented(orientation);
        let own_mm = header_spacing_mm(&source.reoriented(orientation));
        let new_mm = recipe.nnunet_spacing_mm(own_mm);
        // Python's `round`, as in `compute_new_shape`, rounds halves to even.
        let shape = std::array::from_fn(|axis| {
            let voxels = own_mm[axis] / new_mm[axis] * native.shape[axis] as f64;
            (voxels.round_ties_even() as usize).max(1)
        });
        Self {
            region,
            native,
            grid: native.resized(shape),
        }
    }

    /// For the nonzero part of a volume, or all of it if there is none (`crop_to_nonzero`).
    pub fn of_volume(recipe: &Recipe, nnunet: &NnunetConfig, volume: &Volume) -> Self {
        let whole = VoxelBox::whole(volume.grid.shape);
        let region = nonzero_box(volume.data.view()).unwrap_or(whole);
        Self::new(recipe, nnunet, &volume.grid, region)
    }
}

/// The bounding box (x, y, z) of the nonzero voxels.
fn nonzero_box(data: ArrayView3<f32>) -> Option<VoxelBox> {
    let of_plane = |z: usize| -> Option<VoxelBox> {
        let mut found: Option<VoxelBox> = None;
        let plane = data.index_axis(ndarray::Axis(0), z);
        for (y, row) in plane.rows().into_iter().enumerate() {
            let Some(first) = row.iter().position(|value| *value != 0.0) else {
                continue;
            };
            let after = row.iter().rev().position(|value| *value != 0.0);
            let row = VoxelBox {
                start: [first, y, z],
                end: [row.len() - after.unwrap_or(0), y + 1, z + 1],
            };
            found = Some(found.map_or(row, |found| found.union(&row)));
        }
        found
    };
    let planes = (0..data.len_of(ndarray::Axis(0))).into_par_iter();
    planes.filter_map(of_plane).reduce_with(|a, b| a.union(&b))
}

/// The nonzero voxels with holes filled (`create_nonzero_mask`).
pub(super) fn nonzero_mask(data: ArrayView3<f32>) -> Array3<bool> {
    let mut mask = data.mapv(|value| value != 0.0);
    ctseg_image::labels::postprocess::fill_holes(&mut mask, None);
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_box_contains_all_nonzero_voxels() {
        let mut data = Array3::<f32>::zeros((4, 5, 6));
        assert_eq!(nonzero_box(data.view()), None);
        data[[1, 2, 3]] = -5.0;
        data[[2, 4, 1]] = 1.0;
        let found = nonzero_box(data.view()).unwrap();
        assert_eq!((found.start, found.end), ([1, 2, 1], [4, 5, 3]));
    }

    #[test]
    fn the_mask_has_no_holes() {
        let mut data = Array3::<f32>::ones((3, 3, 3));
        data[[1, 1, 1]] = 0.0;
        assert!(nonzero_mask(data.view()).iter().all(|inside| *inside));
        data[[0, 1, 1]] = 0.0;
        assert!(!nonzero_mask(data.view())[[1, 1, 1]]);
    }
}
