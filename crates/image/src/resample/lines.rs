//! One axis of a separable resampling: every line along it is filtered and weighted.
//!
//! Many adjacent lines are processed at a time, so that the inner loops run over contiguous memory and vectorise for
//! every axis.

use ndarray::parallel::prelude::*;
use ndarray::{Array3, ArrayView1, ArrayView2, ArrayView3, ArrayViewMut2, Axis, s};

use super::bspline::prefilter;
use super::range::ValueRange;
use super::weights::Taps;

/// The operation along one axis.
pub(super) struct Pass<'a> {
    pub axis: usize,
    pub taps: &'a Taps,
    /// Convert samples to spline coefficients first.
    pub spline: bool,
    /// Clip the results.
    pub range: Option<ValueRange>,
}

/// Size of a block of lines: fits the first-level cache.
const BLOCK_BYTES: usize = 32 * 1024;

/// Lines per block when they are not adjacent in memory and must be transposed first.
const TRANSPOSED_LINES: usize = 16;

/// Runs `pass` over `source` (z, y, x); only the length along its axis changes.
pub(super) fn run(source: ArrayView3<f32>, pass: &Pass, parallel: bool) -> Array3<f32> {
    let mut shape = source.raw_dim();
    shape[pass.axis] = pass.taps.len();
    let mut result = Array3::zeros(shape);
    // Planes that contain whole lines, and the x axis if possible.
    let outer = Axis(usize::from(pass.axis == 0));
    let work = |buffers: &mut Buffers, (to, from): (ArrayViewMut2<f32>, ArrayView2<f32>)| {
        if pass.axis == 2 {
            plane_of_transposed_lines(from, to, pass, buffers);
        } else {
            plane_of_lines(from, to, pass, buffers);
        }
    };
    if parallel {
        result
            .axis_iter_mut(outer)
            .into_par_iter()
            .zip(source.axis_iter(outer))
            .for_each_init(Buffers::default, work);
    } else {
        let mut buffers = Buffers::default();
        for planes in result.axis_iter_mut(outer).zip(source.axis_iter(outer)) {
            work(&mut buffers, planes);
        }
    }
    result
}

#[derive(Default)]
struct Buffers {
    lines: Vec<f32>,
    results: Vec<f32>,
}

/// Lines run along the first axis of `from`; adjacent lines along the second.
fn plane_of_lines(
    from: ArrayView2<f32>,
    mut to: ArrayViewMut2<f32>,
    pass: &Pass,
    buffers: &mut Buffers,
) {
    let (length, lines) = from.dim();
    if !pass.spline && (from.strides()[1] == 1 || lines == 1) {
        let row = |index: usize| {
            from.index_axis_move(Axis(0), index)
                .to_slice()
                .unwrap_or(&[])
        };
        return blend_rows(&row, to, pass);
    }
    let block = (BLOCK_BYTES / size_of::<f32>() / length / 16 * 16).clamp(16, lines.max(16));
    for start in (0..lines).step_by(block) {
        let end = (start + block).min(lines);
        let width = end - start;
        buffers.lines.resize(length * width, 0.0);
        for (row, buffer) in from
            .rows()
            .into_iter()
            .zip(buffers.lines.chunks_exact_mut(width))
        {
            load(buffer, row.slice_move(s![start..end]));
        }
        if pass.spline {
            prefilter(&mut buffers.lines, width);
        }
        let row = |index: usize| &buffers.lines[index * width..(index + 1) * width];
        blend_rows(&row, to.slice_mut(s![.., start..end]), pass);
    }
}

/// Lines run along the second axis of `from`; they are transposed in blocks.
fn plane_of_transposed_lines(
    from: ArrayView2<f32>,
    mut to: ArrayViewMut2<f32>,
    pass: &Pass,
    buffers: &mut Buffers,
) {
    const WIDTH: usize = TRANSPOSED_LINES;
    let (lines, length) = from.dim();
    let targets = pass.taps.len();
    // Lanes beyond the last line are computed on stale data and dropped.
    buffers.lines.resize(length * WIDTH, 0.0);
    buffers.results.resize(targets * WIDTH, 0.0);
    for start in (0..lines).step_by(WIDTH) {
        let end = (start + WIDTH).min(lines);
        for (lane, line) in (start..end).enumerate() {
            let (columns, _) = buffers.lines.as_chunks_mut::<WIDTH>();
            for (column, value) in columns.iter_mut().zip(from.row(line)) {
                column[lane] = *value;
            }
        }
        if pass.spline {
            prefilter(&mut buffers.lines, WIDTH);
        }
        let row = |index: usize| &buffers.lines[index * WIDTH..(index + 1) * WIDTH];
        let results = ArrayViewMut2::from_shape((targets, WIDTH), &mut buffers.results);
        if let Ok(results) = results {
            blend_rows(&row, results, pass);
        }
        for (lane, line) in (start..end).enumerate() {
            let (columns, _) = buffers.results.as_chunks::<WIDTH>();
            for (value, column) in to.row_mut(line).iter_mut().zip(columns) {
                *value = column[lane];
            }
        }
    }
}

/// Copies a row whose stride may be negative.
fn load(buffer: &mut [f32], row: ArrayView1<f32>) {
    if let Some(row) = row.to_slice() {
        buffer.copy_from_slice(row);
        return;
    }
    let mut reversed = row;
    reversed.invert_axis(Axis(0));
    if let Some(reversed) = reversed.to_slice() {
        for (value, from) in buffer.iter_mut().zip(reversed.iter().rev()) {
            *value = *from;
        }
        return;
    }
    for (value, from) in buffer.iter_mut().zip(row) {
        *value = *from;
    }
}

/// Computes every row of `to` from the source rows of its taps; rows of `to` are contiguous.
fn blend_rows<'a>(row: &impl Fn(usize) -> &'a [f32], to: ArrayViewMut2<f32>, pass: &Pass) {
    match pass.taps.width {
        1 => blend_rows_of(row, to, pass, |[a], [v]| a * v),
        2 => blend_rows_of(row, to, pass, |[a, b], [v, w]| a * v + b * w),
        3 => blend_rows_of(row, to, pass, |[a, b, c], [v, w, x]| a * v + b * w + c * x),
        _ => blend_rows_of(row, to, pass, |[a, b, c, d], [v, w, x, y]| {
            (a * v + b * w) + (c * x + d * y)
        }),
    }
}

fn blend_rows_of<'a, const WIDTH: usize>(
    row: &impl Fn(usize) -> &'a [f32],
    mut to: ArrayViewMut2<f32>,
    pass: &Pass,
    blend: impl Fn([f32; WIDTH], [f32; WIDTH]) -> f32,
) {
    let lanes = to.ncols();
    let (weights, _) = pass.taps.weights.as_chunks::<WIDTH>();
    for ((mut to, start), weights) in to
        .rows_mut()
        .into_iter()
        .zip(&pass.taps.starts)
        .zip(weights)
    {
        let Some(to) = to.as_slice_mut() else {
            continue;
        };
        // Slices of equal length let the compiler drop bounds checks.
        let rows: [&[f32]; WIDTH] = std::array::from_fn(|tap| &row(start + tap)[..lanes]);
        for (lane, value) in to.iter_mut().enumerate() {
            *value = blend(*weights, std::array::from_fn(|tap| rows[tap][lane]));
        }
        if let Some([low, high]) = pass.range {
            for value in to.iter_mut() {
                let raised = if *value < low { low } else { *value };
                *value = if raised > high { high } else { raised };
            }
        }
    }
}
