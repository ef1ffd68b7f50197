//! The value range that resampled volumes are clipped to.

use ndarray::{ArrayView3, Zip};

/// Minimum and maximum.
pub(super) type ValueRange = [f32; 2];

/// The minimum and maximum, ignoring NaN.
pub(super) fn value_range(data: ArrayView3<f32>) -> ValueRange {
    let wider = |a: ValueRange, b: ValueRange| [a[0].min(b[0]), a[1].max(b[1])];
    let nothing = [f32::INFINITY, f32::NEG_INFINITY];
    // Minimum and maximum do not depend on the order, so this is deterministic.
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

/// Keeps sixteen running extremes, so that the loop vectorises.
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
