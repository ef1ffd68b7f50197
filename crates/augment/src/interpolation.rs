//! Interpolation of a row of a patch. Positions are computed once for all channels and the labels. Each step is a
//! branch-free loop over the row, which the compiler vectorises.

use ndarray::{ArrayView, ArrayViewMut, Axis, Dimension, Slice};

use crate::simd::simd;

/// Marks "no voxel": beyond any index, and so is every sum that contains it.
const NONE: f64 = 1e18;

/// The sampling positions of one row, in an array of `D` axes, the fastest axis last.
pub(super) struct Taps<const D: usize> {
    shape: [usize; D],
    /// Strides in elements along each axis.
    strides: [usize; D],
    /// Positions along each axis, in voxels.
    pub positions: [Vec<f64>; D],
    /// Fractional part of each position.
    shares: [Vec<f32>; D],
    /// Accumulators for `inner` and `nearest`.
    sums: [Vec<f64>; 2],
    /// Index of the voxel at or below each position, if it and its upper neighbours are all inside.
    inner: Vec<usize>,
    /// Index of the nearest voxel, if it is inside.
    nearest: Vec<usize>,
}

impl<const D: usize> Taps<D> {
    /// A row of `length` positions in a contiguous array of `shape`.
    pub fn new(shape: [usize; D], length: usize) -> Self {
        let mut strides = [1; D];
        for axis in (0..D.saturating_sub(1)).rev() {
            strides[axis] = strides[axis + 1] * shape[axis + 1];
        }
        Self {
            shape,
            strides,
            positions: std::array::from_fn(|_| vec![0.0; length]),
            shares: std::array::from_fn(|_| vec![0.0; length]),
            sums: std::array::from_fn(|_| vec![0.0; length]),
            inner: vec![0; length],
            nearest: vec![0; length],
        }
    }

    /// Places the positions on a straight line.
    pub fn place(&mut self, start: [f64; D], step: [f64; D]) {
        for (axis, positions) in self.positions.iter_mut().enumerate() {
            let (start, step) = (start[axis], step[axis]);
            for (index, position) in positions.iter_mut().enumerate() {
                *position = start + step * f64::from(index as u32);
            }
        }
    }

    /// Displaces the positions: along each axis by the sum of `by` times `factors`.
    pub fn move_by(&mut self, by: &[Vec<f32>], factors: [[f64; D]; D]) {
        for (positions, factors) in self.positions.iter_mut().zip(factors) {
            for (by, factor) in by.iter().zip(factors) {
                for (position, by) in positions.iter_mut().zip(by) {
                    *position += f64::from(*by) * factor;
                }
            }
        }
    }

    /// Computes the voxel indices of the positions.
    pub fn find(&mut self) {
        let [inner, nearest] = &mut self.sums;
        inner.fill(0.0);
        nearest.fill(0.0);
        for axis in 0..D {
            let (positions, shares) = (&self.positions[axis], &mut self.shares[axis]);
            let size = (self.shape[axis] as f64, self.strides[axis] as f64);
            find_along(positions, shares, inner, nearest, size);
        }
        for (index, sum) in self.inner.iter_mut().zip(inner) {
            *index = *sum as i64 as usize;
        }
        for (index, sum) in self.nearest.iter_mut().zip(nearest) {
            *index = *sum as i64 as usize;
        }
    }

    /// Nearest neighbour (order 0); 0 outside the array.
    pub fn nearest<'a>(&self, values: &[u16], to: impl Iterator<Item = &'a mut u16>) {
        for (to, index) in to.zip(&self.nearest) {
            *to = values.get(*index).copied().unwrap_or(0);
        }
    }

    /// Linear interpolation near the border of the array, with 0 outside.
    #[cold]
    fn at_border(&self, values: &[f32], column: usize) -> f32 {
        let mut sum = 0.0;
        'corner: for corner in 0..1 << D {
            let (mut weight, mut index) = (1.0, 0);
            for axis in 0..D {
                let is_upper = corner >> axis & 1 == 1;
                let low = floor(self.positions[axis][column]);
                let at = if is_upper { low + 1.0 } else { low };
                if at < 0.0 || at >= self.shape[axis] as f64 {
                    continue 'corner;
                }
                let share = self.shares[axis][column];
                weight *= if is_upper { share } else { 1.0 - share };
                index += at as usize * self.strides[axis];
            }
            sum += weight * values[index];
        }
        sum
    }
}

impl Taps<2> {
    /// Linear interpolation (order 1); 0 outside the array.
    pub fn linear<'a>(&self, values: &[f32], to: impl Iterator<Item = &'a mut f32>) {
        let below = self.strides[0];
        let [down, along] = &self.shares;
        let taps = self.inner.iter().zip(down).zip(along);
        for (column, (to, ((first, down), along))) in to.zip(taps).enumerate() {
            *to = match values.get(*first..*first + below + 2) {
                Some(around) => plane(around, below, [*down, *along]),
                None => self.at_border(values, column),
            };
        }
    }
}

impl Taps<3> {
    /// Linear interpolation (order 1); 0 outside the array.
    pub fn linear<'a>(&self, values: &[f32], to: impl Iterator<Item = &'a mut f32>) {
        let [above, below, _] = self.strides;
        let [up, down, along] = &self.shares;
        let taps = self.inner.iter().zip(up).zip(down).zip(along);
        for (column, (to, (((first, up), down), along))) in to.zip(taps).enumerate() {
            *to = match values.get(*first..*first + above + below + 2) {
                Some(around) => {
                    let low = plane(around, below, [*down, *along]);
                    let high = plane(&around[above..], below, [*down, *along]);
                    mixed(low, high, *up)
                }
                None => self.at_border(values, column),
            };
        }
    }
}

simd! {
    /// Adds the contribution of one axis of a length and stride to the indices of a row.
    fn find_along(
        positions: &[f64],
        shares: &mut [f32],
        inner: &mut [f64],
        nearest: &mut [f64],
        size: (f64, f64),
    ) {
        let (length, stride) = size;
        let row = positions.iter().zip(shares);
        let sums = inner.iter_mut().zip(nearest);
        for ((position, share), (inner, nearest)) in row.zip(sums) {
            let low = floor(*position);
            let behind = position - low;
            *share = behind as f32;
            let all_inside = low >= 0.0 && low + 1.0 < length;
            *inner += if all_inside { low * stride } else { NONE };
            let near = if behind >= 0.5 { low + 1.0 } else { low };
            let is_inside = near >= 0.0 && near < length;
            *nearest += if is_inside { near * stride } else { NONE };
        }
    }
}

/// Copies a source from `start` on into the start of a patch, backwards along `reversed` axes; the rest becomes
/// `zero`.
pub(super) fn copy<T: Copy, D: Dimension, const N: usize>(
    from: ArrayView<T, D>,
    (start, reversed): ([f64; N], [bool; N]),
    mut into: ArrayViewMut<T, D>,
    zero: T,
) {
    let whole = into.raw_dim();
    let mut cropped = from.clone();
    let mut part = into.view_mut();
    let along = |axis: usize| (Axis(axis), (start[axis], reversed[axis]));
    for (axis, from) in (0..N).map(along) {
        crop(&mut cropped, &mut part, axis, from);
    }
    if part.raw_dim() == whole {
        part.assign(&cropped);
        return;
    }
    into.fill(zero);
    let mut part = into.view_mut();
    let mut cropped = from;
    for (axis, from) in (0..N).map(along) {
        crop(&mut cropped, &mut part, axis, from);
    }
    part.assign(&cropped);
}

/// Crops a source and its target patch along one axis to their overlap: from `start` on, backwards if `reversed`.
fn crop<T, D: Dimension>(
    from: &mut ArrayView<T, D>,
    into: &mut ArrayViewMut<T, D>,
    axis: Axis,
    (start, reversed): (f64, bool),
) {
    let length = from.len_of(axis);
    let (mut first, mut skipped) = (start as usize, 0);
    if reversed {
        from.invert_axis(axis);
        // The part beyond the end of the source comes first in the patch, and is empty.
        skipped = (first + 1).saturating_sub(length);
        first = (length + skipped).saturating_sub(first + 1);
    }
    let first = first.min(length);
    let skipped = skipped.min(into.len_of(axis));
    let count = (length - first).min(into.len_of(axis) - skipped);
    from.slice_axis_inplace(axis, Slice::from(first..first + count));
    into.slice_axis_inplace(axis, Slice::from(skipped..skipped + count));
}

/// Rounds down. `f64::floor` is a function call on baseline CPUs.
#[inline(always)]
fn floor(x: f64) -> f64 {
    /// Adding and subtracting it rounds numbers below 2⁵¹ to integers.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let whole = x + ROUND - ROUND;
    if whole > x { whole - 1.0 } else { whole }
}

/// Bilinear interpolation between a voxel, its right neighbour and the two `below`.
#[inline(always)]
fn plane(around: &[f32], below: usize, [down, along]: [f32; 2]) -> f32 {
    let (top, bottom) = (&around[..2], &around[below..below + 2]);
    let top = mixed(top[0], top[1], along);
    mixed(top, mixed(bottom[0], bottom[1], along), down)
}

#[inline(always)]
fn mixed(a: f32, b: f32, share: f32) -> f32 {
    a + share * (b - a)
}
