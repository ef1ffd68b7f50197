//! The steps of a separable resampling: crop, flip to ascending order, then one pass per axis.

use ndarray::{Array3, ArrayView3, Axis, Slice};

use super::bspline::REACH;
use super::gather;
use super::lines::{self, Pass};
use super::range::ValueRange;
use super::weights::Taps;

/// The interpolating kernels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kernel {
    Linear,
    Cubic,
}

/// Interpolates `source`, whose axes are in target order, at `positions` (evenly spaced fractional source indices per
/// axis z, y, x); results are clipped to `range` if given.
///
/// # Shapes
/// output: (positions[0], positions[1], positions[2])
pub(super) fn interpolate(
    mut source: ArrayView3<f32>,
    mut positions: [Vec<f64>; 3],
    kernel: Kernel,
    range: Option<ValueRange>,
    parallel: bool,
) -> Array3<f32> {
    if positions.iter().all(|along| is_copy(along)) {
        let indices = gather::nearest(&positions, source.shape());
        return gather::gather(source, &indices);
    }
    for (axis, along) in positions.iter_mut().enumerate() {
        crop(&mut source, Axis(axis), along, kernel);
        flip_to_ascending(&mut source, Axis(axis), along);
    }
    // Lines must be adjacent in memory; a source with another axis order is copied first.
    let is_x_contiguous = source.shape()[2] == 1 || source.strides()[2].abs() == 1;
    let mut current = (!is_x_contiguous).then(|| gather::contiguous(source));
    let passes = [0, 1, 2].map(|axis| plan(axis, &positions[axis], source.shape()[axis], kernel));
    let mut passes: Vec<Planned> = passes.into_iter().flatten().collect();
    order_by_cost(&mut passes);
    let last = passes.len().saturating_sub(1);
    for (index, planned) in passes.iter().enumerate() {
        let pass = Pass {
            axis: planned.axis,
            taps: &planned.taps,
            spline: planned.spline,
            range: range.filter(|_| index == last),
        };
        let from = current.as_ref().map_or(source, |array| array.view());
        current = Some(lines::run(from, &pass, parallel));
    }
    current.unwrap_or_else(|| source.to_owned())
}

/// Whether the positions are consecutive voxel centres, ascending or descending.
fn is_copy(positions: &[f64]) -> bool {
    let ascending = positions.windows(2).all(|pair| pair[1] - pair[0] == 1.0);
    let descending = positions.windows(2).all(|pair| pair[1] - pair[0] == -1.0);
    positions.first().is_none_or(|p| p.fract() == 0.0) && (ascending || descending)
}

/// Crops `axis` to what the positions need, plus the reach of the spline prefilter, so that resampling a small region
/// does not filter the whole volume.
fn crop(source: &mut ArrayView3<f32>, axis: Axis, positions: &mut [f64], kernel: Kernel) {
    let length = source.len_of(axis);
    let ends = [positions.first(), positions.last()].map(|end| end.copied().unwrap_or(0.0));
    let inside = |position: f64| position.clamp(0.0, length as f64 - 1.0);
    let margin = match kernel {
        Kernel::Linear => 0,
        Kernel::Cubic => REACH + 2,
    };
    let start = (inside(ends[0].min(ends[1])).floor() as usize).saturating_sub(margin);
    let end = (inside(ends[0].max(ends[1])).ceil() as usize + 1 + margin).min(length);
    source.slice_axis_inplace(axis, Slice::from(start..end));
    for position in positions {
        *position -= start as f64;
    }
}

/// Flips an axis whose positions are descending.
fn flip_to_ascending(source: &mut ArrayView3<f32>, axis: Axis, positions: &mut [f64]) {
    if positions.first() > positions.last() {
        let end = source.len_of(axis) as f64 - 1.0;
        source.invert_axis(axis);
        for position in positions {
            *position = end - *position;
        }
    }
}

/// A pass before ordering.
struct Planned {
    axis: usize,
    taps: Taps,
    spline: bool,
    /// Number of voxels along the axis before the pass.
    length: usize,
}

/// The pass along an axis; `None` if it would change nothing.
fn plan(axis: usize, positions: &[f64], length: usize, kernel: Kernel) -> Option<Planned> {
    let copy = is_copy(positions);
    if copy && positions.len() == length && positions.first() == Some(&0.0) {
        return None;
    }
    let taps = match kernel {
        _ if copy => Taps::copies(positions, length),
        Kernel::Linear => Taps::linear(positions, length),
        Kernel::Cubic => Taps::cubic(positions, length),
    };
    let spline = kernel == Kernel::Cubic && !copy;
    Some(Planned {
        axis,
        taps,
        spline,
        length,
    })
}

/// Passes along different axes commute: sorts them so that the total work is smallest.
fn order_by_cost(passes: &mut [Planned]) {
    /// Filtering reads and writes a line twice; transposed lines (along x) cost another copy.
    const SPLINE: f64 = 2.0;
    const TRANSPOSED: f64 = 1.5;
    let work = |pass: &Planned| {
        let (before, after) = (pass.length as f64, pass.taps.len() as f64);
        let filter = if pass.spline { SPLINE } else { 0.0 };
        let transposed = if pass.axis == 2 { TRANSPOSED } else { 1.0 };
        (before * (1.0 + filter) + after * (1.0 + pass.taps.width as f64 / 4.0)) * transposed
    };
    // Pass a before b costs work(a) + after(a)/before(a) · work(b) (per voxel): the classic exchange
    // argument orders by (ratio − 1)/work.
    let rank = |pass: &Planned| {
        let (before, after) = (pass.length as f64, pass.taps.len() as f64);
        (after / before - 1.0) / (work(pass) / before)
    };
    passes.sort_by(|a, b| rank(a).total_cmp(&rank(b)).then(a.axis.cmp(&b.axis)));
}
