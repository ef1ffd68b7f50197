//! Resampling of volumes.

use ndarray::{Array3, ArrayView3};
use serde::{Deserialize, Serialize};

use super::alignment::{at_nearest, checked_map, in_target_order, positions_zyx, target_axis};
use super::range::{ValueRange, value_range};
use super::{gather, plan};
use crate::space::{Grid, Volume};
use ctseg_base::Result;

/// Interpolation of intensities between voxel centres.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// The nearest voxel; half-way (to a millionth of a voxel), the one with the higher index.
    Nearest,
    /// Trilinear.
    Linear,
    /// Cubic B-spline through the voxels (Unser 1999), the "order 3" of SciPy.
    Cubic,
}

/// Resamples `volume` onto the voxels of `onto`; beyond the source its border voxels repeat.
///
/// Cubic results are clipped to the source's range, as with scikit-image's `clip=True`, to prevent overshoot. A
/// non-finite voxel corrupts its neighbours under Linear, and its whole lines under Cubic.
///
/// # Errors
/// Grids whose axes are not parallel, without voxels, or too large for memory.
pub fn resample(volume: &Volume, onto: &Grid, interpolation: Interpolation) -> Result<Volume> {
    let data = resample_array(volume.data.view(), &volume.grid, onto, interpolation)?;
    Ok(Volume { grid: *onto, data })
}

/// [`resample`] for bare voxels.
///
/// # Shapes
/// - `data`: (z, y, x) of `from`
/// - output: (z, y, x) of `onto`
///
/// # Errors
/// Those of [`resample`], and `data` that does not have the shape of `from`.
pub fn resample_array(
    data: ArrayView3<f32>,
    from: &Grid,
    onto: &Grid,
    interpolation: Interpolation,
) -> Result<Array3<f32>> {
    let range = (interpolation == Interpolation::Cubic).then(|| value_range(data));
    resample_within(data, from, onto, interpolation, range)
}

/// [`resample_array`] with linear interpolation, except nearest neighbour along the axis `nearest` (x, y, z of `from`),
/// if given.
///
/// # Errors
/// As [`resample_array`].
pub fn resample_linear(
    data: ArrayView3<f32>,
    from: &Grid,
    onto: &Grid,
    nearest: Option<usize>,
) -> Result<Array3<f32>> {
    let map = checked_map(data.shape(), from, onto)?;
    let aligned = in_target_order(data, &map);
    let mut positions = positions_zyx(&map, onto.shape.map(|voxels| 0..voxels));
    if let Some(axis) = nearest.and_then(|axis| target_axis(&map, axis)) {
        at_nearest(&mut positions, axis, aligned.shape());
    }
    let kernel = plan::Kernel::Linear;
    Ok(plan::interpolate(aligned, positions, kernel, None, true))
}

/// [`resample_array`] without clipping: SciPy's result for `order=3`, including overshoot.
///
/// # Errors
/// As [`resample_array`].
pub fn resample_array_unclipped(
    data: ArrayView3<f32>,
    from: &Grid,
    onto: &Grid,
    interpolation: Interpolation,
) -> Result<Array3<f32>> {
    resample_within(data, from, onto, interpolation, None)
}

fn resample_within(
    data: ArrayView3<f32>,
    from: &Grid,
    onto: &Grid,
    interpolation: Interpolation,
    range: Option<ValueRange>,
) -> Result<Array3<f32>> {
    let map = checked_map(data.shape(), from, onto)?;
    let aligned = in_target_order(data, &map);
    let positions = positions_zyx(&map, onto.shape.map(|voxels| 0..voxels));
    let kernel = match interpolation {
        Interpolation::Nearest => {
            let indices = gather::nearest(&positions, aligned.shape());
            return Ok(gather::gather(aligned, &indices));
        }
        Interpolation::Linear => plan::Kernel::Linear,
        Interpolation::Cubic => plan::Kernel::Cubic,
    };
    Ok(plan::interpolate(
        aligned, positions, kernel, range, /* parallel */ true,
    ))
}
