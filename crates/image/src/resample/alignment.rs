//! Mapping of target voxels to source positions.

use std::ops::Range;

use ndarray::ArrayView3;

use super::weights::nearest_index;
use crate::space::{Grid, GridMap};
use ctseg_base::{Error, Result};

/// The map from voxels of `onto` to positions in `from`, after checking both grids and the data's shape (z, y, x).
pub(super) fn checked_map(shape_zyx: &[usize], from: &Grid, onto: &Grid) -> Result<GridMap> {
    if shape_zyx != from.shape_zyx() {
        return Err(Error::invalid(format!(
            "cannot resample: the array has {shape_zyx:?} voxels (z, y, x), its grid {:?}; pass the grid \
             of the array",
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

/// A grid's size may come from a file's header: check early that memory can be allocated.
fn check_memory(grid: &Grid) -> Result<()> {
    let voxels = grid
        .shape
        .iter()
        .try_fold(1usize, |product, axis| product.checked_mul(*axis));
    let mut probe: Vec<f32> = Vec::new();
    match voxels.map(|voxels| probe.try_reserve_exact(voxels)) {
        Some(Ok(())) => Ok(()),
        _ => Err(Error::out_of_memory(format!(
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

/// A view of the source with its axes in the order of the target's (z, y, x).
pub(super) fn in_target_order<'a, T>(data: ArrayView3<'a, T>, map: &GridMap) -> ArrayView3<'a, T> {
    data.permuted_axes([2, 1, 0].map(|target| 2 - map[target].axis))
}

/// The target's array axis (of z, y, x) that corresponds to the source's axis `axis` (of x, y, z).
pub(super) fn target_axis(map: &GridMap, axis: usize) -> Option<usize> {
    let target = map.iter().position(|along| along.axis == axis);
    target.map(|target| 2 - target)
}

/// The fractional source index of every target index in `ranges` (x, y, z), per axis (z, y, x).
pub(super) fn positions_zyx(map: &GridMap, ranges: [Range<usize>; 3]) -> [Vec<f64>; 3] {
    [2, 1, 0].map(|axis| {
        let along = map[axis];
        ranges[axis]
            .clone()
            .map(|index| along.scale * index as f64 + along.offset)
            .collect()
    })
}

/// Rounds positions along `axis` (of z, y, x) to the nearest source voxels, so that interpolation copies those.
pub(super) fn at_nearest(positions: &mut [Vec<f64>; 3], axis: usize, shape: &[usize]) {
    for position in &mut positions[axis] {
        *position = nearest_index(*position, shape[axis]) as f64;
    }
}
