//! Axial planes of a patch.

use ndarray::{ArrayViewMut2, ArrayViewMut3, s};

/// The plane at `z`.
pub(super) fn plane<'a>(values: &'a mut ArrayViewMut3<f32>, z: usize) -> ArrayViewMut2<'a, f32> {
    values.slice_mut(s![z, .., ..])
}
