//! Voxel copies without interpolation, for any voxel type: nearest neighbour, crops, flips and permutations.

use ndarray::parallel::prelude::*;
use ndarray::{Array3, ArrayView3, ArrayViewMut3, Axis};
use rayon::slice::ParallelSlice;

use super::weights::nearest_index;

/// The source index nearest to each position, per axis (z, y, x).
pub(super) fn nearest(positions: &[Vec<f64>; 3], shape: &[usize]) -> [Vec<usize>; 3] {
    std::array::from_fn(|axis| {
        let along = positions[axis].iter();
        along.map(|p| nearest_index(*p, shape[axis])).collect()
    })
}

/// The same voxels in row-major order.
pub(super) fn contiguous<T: Copy + Default + Send + Sync>(source: ArrayView3<T>) -> Array3<T> {
    let shape = source.shape();
    gather(source, &[0, 1, 2].map(|axis| (0..shape[axis]).collect()))
}

/// output\[z, y, x\] = source\[indices.0\[z\], indices.1\[y\], indices.2\[x\]\].
pub(super) fn gather<T: Copy + Default + Send + Sync>(
    source: ArrayView3<T>,
    indices: &[Vec<usize>; 3],
) -> Array3<T> {
    let [z, y, x] = indices;
    let mut result = Array3::from_elem((z.len(), y.len(), x.len()), T::default());
    let is_x_contiguous = source.shape()[2] == 1 || source.strides()[2].abs() == 1;
    if is_x_contiguous {
        let is_range = x.windows(2).all(|pair| pair[1] == pair[0] + 1);
        let planes = result.axis_iter_mut(Axis(0)).into_par_iter().zip(z);
        planes.for_each(|(mut plane, z)| {
            for (mut row, y) in plane.rows_mut().into_iter().zip(y) {
                let from = source.index_axis(Axis(0), *z).index_axis_move(Axis(0), *y);
                match (from.to_slice(), row.as_slice_mut()) {
                    (Some(from), Some(row)) if is_range => {
                        row.copy_from_slice(&from[x[0]..x[0] + row.len()]);
                    }
                    (Some(from), _) => row.iter_mut().zip(x).for_each(|(to, x)| *to = from[*x]),
                    _ => row.iter_mut().zip(x).for_each(|(to, x)| *to = from[*x]),
                }
            }
        });
    } else {
        let slabs = result.axis_chunks_iter_mut(Axis(0), TILE).into_par_iter();
        let slabs = slabs.zip(z.par_chunks(TILE));
        slabs.for_each(|(slab, z)| gather_tiles(source, slab, [z, y, x]));
    }
    result
}

/// Side of the cubes to copy when source and target differ in memory order, so that both stay in cache.
const TILE: usize = 16;

fn gather_tiles<T: Copy>(
    source: ArrayView3<T>,
    mut slab: ArrayViewMut3<T>,
    [z, y, x]: [&[usize]; 3],
) {
    for (mut bar, y) in slab.axis_chunks_iter_mut(Axis(1), TILE).zip(y.chunks(TILE)) {
        for (mut cube, x) in bar.axis_chunks_iter_mut(Axis(2), TILE).zip(x.chunks(TILE)) {
            for (mut plane, z) in cube.outer_iter_mut().zip(z) {
                for (mut row, y) in plane.rows_mut().into_iter().zip(y) {
                    let from = source.index_axis(Axis(0), *z).index_axis_move(Axis(0), *y);
                    row.iter_mut().zip(x).for_each(|(to, x)| *to = from[*x]);
                }
            }
        }
    }
}
