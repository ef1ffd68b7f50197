//! Resampling from grid to grid: separable, for grids whose axes are parallel.
//!
//! Values are those of SciPy's `ndimage.zoom`/`map_coordinates` with `mode='nearest'`, and so of
//! scikit-image's `resize(mode='edge', anti_aliasing=False)` as nnU-Net calls it. Where the two grids
//! share voxel centres (same grid, permuted, flipped, cropped) voxels are copied, not interpolated.

mod bspline;
mod gather;
mod labels;
mod lines;
mod plan;
mod restore;
mod slicewise;
mod taps;
#[cfg(test)]
mod tests;

use std::ops::Range;

use ndarray::{Array3, ArrayView3, Zip};
use serde::{Deserialize, Serialize};

pub use labels::{LabelInterpolation, resample_labels};
pub use restore::{Restoration, restore, restore_exclusive};
pub use slicewise::{resample_label_slices, resample_slices};

use crate::error::{Error, Result};
use crate::values::{Grid, GridMap, Volume};

/// How intensities between voxel centres are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// The nearest voxel; exactly half-way (to a millionth of a voxel), the one with the higher index.
    Nearest,
    /// Trilinear.
    Linear,
    /// Cubic B-spline through the voxels (Unser 1999), the "order 3" of SciPy.
    Cubic,
}

/// The smallest and the largest value that a resampled volume may have.
type ValueRange = [f32; 2];

/// Resamples `volume` onto the voxels of `onto`; beyond the source its border voxels repeat.
///
/// Cubic results are clipped to the source's range, as scikit-image's `clip=True`: CT must not ring
/// beyond its range. A voxel that is not finite spoils its surroundings under Linear, and its whole
/// lines under Cubic.
///
/// # Errors
/// The axes of the grids are not parallel; a grid without voxels, or more than memory can hold.
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
/// As [`resample`], and `data` that is not of the shape of `from`.
pub fn resample_array(
    data: ArrayView3<f32>,
    from: &Grid,
    onto: &Grid,
    interpolation: Interpolation,
) -> Result<Array3<f32>> {
    let range = (interpolation == Interpolation::Cubic).then(|| value_range(data));
    resample_within(data, from, onto, interpolation, range)
}

/// [`resample_array`], linear, along `nearest` (x, y, z of `from`) taking the nearest voxel where one is given.
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
        slicewise::at_nearest(&mut positions, axis, aligned.shape());
    }
    let kernel = plan::Kernel::Linear;
    Ok(plan::interpolate(aligned, positions, kernel, None, true))
}

/// [`resample_array`] without the clipping: what SciPy returns for `order=3`, overshoot included.
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

/// Where the voxels of `onto` lie in `from`, once both grids and the data's shape (z, y, x) are known
/// to be usable.
fn checked_map(shape_zyx: &[usize], from: &Grid, onto: &Grid) -> Result<GridMap> {
    if shape_zyx != from.shape_zyx() {
        return Err(Error::invalid(format!(
            "cannot resample: the array has {shape_zyx:?} voxels (z, y, x), its grid {:?}; pass the grid \
             that the array was made on",
            from.shape_zyx()
        )));
    }
    for (grid, role) in [(from, "source"), (onto, "target")] {
        if grid.shape.contains(&0) {
            return Err(Error::invalid(format!(
                "cannot resample: the {role} grid has no voxels, its shape (x, y, z) is {:?}; expected at \
                 least 1 along each axis",
                grid.shape
            )));
        }
    }
    check_memory(onto)?;
    onto.map_to(from).ok_or_else(|| {
        Error::invalid(format!(
            "cannot resample: the axes of source and target are not parallel (directions {} and {}); \
             expected grids that differ by spacing, offset, flips and order of axes only; choose a target \
             grid along the source's own axes",
            directions(from),
            directions(onto)
        ))
    })
}

/// A grid's size may come from a file's header: ask for the memory before anything relies on it.
fn check_memory(grid: &Grid) -> Result<()> {
    let voxels = grid
        .shape
        .iter()
        .try_fold(1usize, |product, axis| product.checked_mul(*axis));
    let mut probe: Vec<f32> = Vec::new();
    match voxels.map(|voxels| probe.try_reserve_exact(voxels)) {
        Some(Ok(())) => Ok(()),
        _ => Err(Error::invalid(format!(
            "cannot resample: a target of {:?} voxels (x, y, z) does not fit into memory; choose a larger \
             spacing or a smaller region",
            grid.shape
        ))),
    }
}

fn directions(grid: &Grid) -> String {
    let spacing_mm = grid.spacing_mm();
    let axis = |axis: usize| {
        let unit = [0, 1, 2].map(|row| format!("{:.3}", grid.affine[row][axis] / spacing_mm[axis]));
        format!("[{}]", unit.join(" "))
    };
    format!("{} {} {}", axis(0), axis(1), axis(2))
}

/// The source with its axes in the order of the target's (z, y, x); nothing is copied.
fn in_target_order<'a, T>(data: ArrayView3<'a, T>, map: &GridMap) -> ArrayView3<'a, T> {
    data.permuted_axes([2, 1, 0].map(|target| 2 - map[target].axis))
}

/// The target's array axis (of z, y, x) that runs along the source's axis `axis` (of x, y, z).
fn target_axis(map: &GridMap, axis: usize) -> Option<usize> {
    let target = map.iter().position(|along| along.axis == axis);
    target.map(|target| 2 - target)
}

/// For every target index in `ranges` (x, y, z) the fractional index in the source, per axis (z, y, x).
fn positions_zyx(map: &GridMap, ranges: [Range<usize>; 3]) -> [Vec<f64>; 3] {
    [2, 1, 0].map(|axis| {
        let along = map[axis];
        ranges[axis]
            .clone()
            .map(|index| along.scale * index as f64 + along.offset)
            .collect()
    })
}

/// The smallest and largest value, NaN apart.
fn value_range(data: ArrayView3<f32>) -> ValueRange {
    let wider = |a: ValueRange, b: ValueRange| [a[0].min(b[0]), a[1].max(b[1])];
    let nothing = [f32::INFINITY, f32::NEG_INFINITY];
    // A minimum does not depend on the order in which it is found, so this is deterministic.
    Zip::from(data.rows()).par_fold(
        || nothing,
        |range, row| {
            let own = match row.to_slice() {
                Some(row) => slice_range(row),
                None => row.iter().fold(nothing, |range, v| wider(range, [*v, *v])),
            };
            wider(range, own)
        },
        wider,
    )
}

/// Sixteen running extremes, so that the loop vectorises.
fn slice_range(row: &[f32]) -> ValueRange {
    let mut low = [f32::INFINITY; 16];
    let mut high = [f32::NEG_INFINITY; 16];
    let (blocks, rest) = row.as_chunks::<16>();
    for block in blocks {
        for lane in 0..16 {
            // Comparisons with NaN are false, so NaN never becomes an extreme.
            low[lane] = if block[lane] < low[lane] {
                block[lane]
            } else {
                low[lane]
            };
            high[lane] = if block[lane] > high[lane] {
                block[lane]
            } else {
                high[lane]
            };
        }
    }
    let low = low
        .iter()
        .chain(rest)
        .copied()
        .fold(f32::INFINITY, f32::min);
    let high = high
        .iter()
        .chain(rest)
        .copied()
        .fold(f32::NEG_INFINITY, f32::max);
    [low, high]
}
