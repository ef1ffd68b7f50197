//! The programs in `examples/`, on cases computed by hand.

#[allow(dead_code)] // its `main`
#[path = "../../examples/resample.rs"]
mod resample;
#[allow(dead_code)]
#[path = "../../examples/surface_metrics.rs"]
mod surface_metrics;

use ctseg_image::formats::VoxelType;
use ctseg_image::space::{Grid, LabelMap, Volume};
use ndarray::{Array3, s};

#[test]
fn a_ramp_is_resampled_to_the_means_of_its_voxels() {
    let folder = tempfile::tempdir().unwrap();
    let [fine, coarse] = ["fine.nii.gz", "coarse.nii.gz"].map(|name| folder.path().join(name));
    let grid = Grid::with_spacing([6, 4, 2], [1.0; 3]);
    let ramp = Volume {
        grid,
        data: Array3::from_shape_fn(grid.shape_zyx(), |(_, _, x)| 10.0 * x as f32),
    };
    ramp.save(&fine, VoxelType::I16).unwrap();
    let [before, after] = resample::to_spacing(&fine, 2.0, &coarse).unwrap();
    assert_eq!((before.shape, after.shape), ([6, 4, 2], [3, 2, 1]));
    // A voxel of 2 mm is centred between two of 1 mm.
    let found = Volume::open(&coarse).unwrap();
    assert_eq!(found.grid.spacing_mm(), [2.0; 3]);
    assert_eq!(found.grid.world_mm([0.0; 3]), [0.5; 3]);
    for row in found.data.rows() {
        assert_eq!(row.to_vec(), [5.0, 25.0, 45.0]);
    }
}

#[test]
fn a_cube_moved_by_a_voxel_is_that_far_away() {
    let folder = tempfile::tempdir().unwrap();
    let grid = Grid::with_spacing([12, 12, 12], [3.0, 1.0, 1.0]);
    let saved = |name: &str, x: usize| {
        let path = folder.path().join(name);
        let mut map = LabelMap::empty(grid);
        map.data.slice_mut(s![3..9, 3..9, x..x + 6]).fill(7);
        map.save(&path).unwrap();
        path
    };
    let (prediction, reference) = (saved("prediction.nii.gz", 4), saved("reference.nii.gz", 3));
    let found = surface_metrics::surface_distances(&prediction, &reference).unwrap();
    let [(7, distances)] = found.as_slice() else {
        panic!("{found:?}");
    };
    // Along x a voxel has 3 mm: the faces across x are moved by it, the faces beside them stay in their planes.
    assert_eq!(distances.hausdorff_mm(), Some(3.0));
    assert_eq!(distances.surface_dice(3.0), Some(1.0));
    assert!(distances.surface_dice(2.9) < Some(1.0));
    let same = surface_metrics::surface_distances(&reference, &reference).unwrap();
    assert_eq!(same[0].1.average_mm(), Some(0.0));
}
