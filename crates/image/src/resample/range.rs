//! The range of values that a resampled volume may have.

use ndarray::{ArrayView3, Zip};

/// The smallest and the largest value that a resampled volume may have.
pub(super) type ValueRange = [f32; 2];

/// The smallest and largest value, NaN apart.
pub(super) fn value_range(data: ArrayView3<f32>) -> ValueRange {
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
