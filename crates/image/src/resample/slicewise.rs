//! Slice-by-slice resampling of anisotropic volumes: interpolated in the plane, nearest neighbour along the axis of the
//! thick slices (nnU-Net's `separate_z` with `order_z = 0`).

use ndarray::parallel::prelude::*;
use ndarray::{Array3, ArrayView3, Axis, Slice};

use super::alignment::{checked_map, in_target_order, positions_zyx};
use super::gather;
use super::intensities::{Interpolation, resample_array};
use super::labels::{Rule, one_hot_linear};
use super::plan::{Kernel, interpolate};
use super::range::value_range;
use super::weights::nearest_index;
use crate::space::{Grid, LabelMap};
use ctseg_base::{Error, Result};

/// [`super::resample_array`], slice by slice across `axis` (x, y, z of `onto`): every slice comes from the nearest
/// source slice, and cubic results are clipped to the range of that slice.
///
/// # Shapes
/// - `data`: (z, y, x) of `from`
/// - output: (z, y, x) of `onto`
///
/// # Errors
/// As [`super::resample_array`].
pub fn resample_slices(
    data: ArrayView3<f32>,
    from: &Grid,
    onto: &Grid,
    axis: usize,
    interpolation: Interpolation,
) -> Result<Array3<f32>> {
    let kernel = match interpolation {
        Interpolation::Nearest => return resample_array(data, from, onto, interpolation),
        Interpolation::Linear => Kernel::Linear,
        Interpolation::Cubic => Kernel::Cubic,
    };
    slice_by_slice(data, from, onto, axis, |slice, positions| {
        let range = (kernel == Kernel::Cubic).then(|| value_range(slice));
        interpolate(slice, positions, kernel, range, /* parallel */ false)
    })
}

/// [`super::resample_labels`] with [`super::LabelInterpolation::OneHotArgmax`], slice by slice as [`resample_slices`].
///
/// # Errors
/// As [`super::resample_labels`].
pub fn resample_label_slices(labels: &LabelMap, onto: &Grid, axis: usize) -> Result<LabelMap> {
    let data = slice_by_slice(
        labels.data.view(),
        &labels.grid,
        onto,
        axis,
        |slice, positions| {
            one_hot_linear(gather::contiguous(slice).view(), &positions, Rule::Largest)
        },
    )?;
    Ok(LabelMap { grid: *onto, data })
}

/// Resamples every source slice that is needed once with `plane`, at the in-plane positions.
fn slice_by_slice<T: Copy + Default + Send + Sync>(
    data: ArrayView3<T>,
    from: &Grid,
    onto: &Grid,
    axis: usize,
    plane: impl Fn(ArrayView3<T>, [Vec<f64>; 3]) -> Array3<T> + Sync,
) -> Result<Array3<T>> {
    let map = checked_map(data.shape(), from, onto)?;
    let aligned = in_target_order(data, &map);
    let positions = positions_zyx(&map, onto.shape.map(|voxels| 0..voxels));
    let across = 2 - axis;
    let length = aligned.len_of(Axis(across));
    let nearest: Vec<usize> = positions[across]
        .iter()
        .map(|p| nearest_index(*p, length))
        .collect();
    let mut wanted = nearest.clone();
    wanted.sort_unstable();
    wanted.dedup();
    let resampled: Vec<Array3<T>> = wanted
        .par_iter()
        .map(|index| {
            let slice = aligned.slice_axis(Axis(across), Slice::from(*index..*index + 1));
            let mut within = positions.clone();
            within[across] = vec![0.0];
            plane(slice, within)
        })
        .collect();
    let [z, y, x] = onto.shape_zyx();
    let mut result = Array3::from_elem((z, y, x), T::default());
    for (mut to, index) in result.axis_iter_mut(Axis(across)).zip(&nearest) {
        let place = wanted.binary_search(index).ok();
        let slice = place.and_then(|place| resampled.get(place));
        let slice = slice.ok_or_else(|| Error::internal("a resampled slice is missing"))?;
        to.assign(&slice.index_axis(Axis(across), 0));
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::s;

    /// (z, y, x) = (2, 1, 3), thick along z.
    fn thick() -> (Array3<f32>, Grid) {
        let data = Array3::from_shape_vec((2, 1, 3), vec![0.0, 2.0, 4.0, 10.0, 10.0, 40.0]);
        (
            data.unwrap(),
            Grid::with_spacing([3, 1, 2], [1.0, 1.0, 5.0]),
        )
    }

    #[test]
    fn slices_are_repeated_and_planes_interpolated() {
        let (data, from) = thick();
        let onto = from.resized([6, 1, 4]);
        let found = resample_slices(data.view(), &from, &onto, 2, Interpolation::Linear).unwrap();
        let first = [0.0, 0.5, 1.5, 2.5, 3.5, 4.0];
        let last = [10.0, 10.0, 10.0, 17.5, 32.5, 40.0];
        for (z, expected) in [(0, first), (1, first), (2, last), (3, last)] {
            assert_eq!(found.slice(s![z, 0, ..]).to_vec(), expected, "slice {z}");
        }
    }

    #[test]
    fn the_axis_is_that_of_the_target() {
        let (data, from) = thick();
        let turned = data.view().permuted_axes([2, 1, 0]);
        // The same voxels, with the file's x axis along z.
        let turned_grid = Grid {
            shape: [2, 1, 3],
            affine: [
                [0.0, 0.0, 1.0, 0.0],
                [0.0, 1.0, 0.0, 0.0],
                [5.0, 0.0, 0.0, 0.0],
            ],
        };
        let onto = from.resized([6, 1, 4]);
        let plain = resample_slices(data.view(), &from, &onto, 2, Interpolation::Cubic).unwrap();
        let found = resample_slices(turned, &turned_grid, &onto, 2, Interpolation::Cubic).unwrap();
        assert_eq!(plain, found);
        // Nothing rings beyond its own slice.
        let low = found.slice(s![..2, .., ..]);
        assert!(low.iter().all(|value| (0.0..=4.0).contains(value)));
    }

    #[test]
    fn labels_are_resampled_slice_by_slice() {
        let grid = Grid::with_spacing([3, 1, 2], [1.0, 1.0, 5.0]);
        let data = Array3::from_shape_vec((2, 1, 3), vec![0, 3, 3, 7, 7, 0]).unwrap();
        let onto = grid.resized([6, 1, 4]);
        let found = resample_label_slices(&LabelMap { grid, data }, &onto, 2).unwrap();
        assert_eq!(found.data.slice(s![1, 0, ..]).to_vec(), [0, 0, 3, 3, 3, 3]);
        assert_eq!(found.data.slice(s![2, 0, ..]).to_vec(), [7, 7, 7, 7, 0, 0]);
    }
}
