//! The recursive prefilter that turns samples into cubic B-spline coefficients.

/// The filter's pole, √3 − 2 (Unser 1999, "Splines: a perfect fit for signal and image processing").
pub(super) const POLE: f64 = -0.267_949_192_431_122_7;

/// Coefficients are divided by this; the interpolation weights are multiplied by it.
pub(super) const GAIN: f64 = 6.0;

/// Voxels further away than this change a coefficient by less than a factor of 1e-9.
pub(super) const REACH: usize = 16;

/// Filters rows of `lanes` samples in place; each lane is filtered independently across the rows.
///
/// The signal is extended infinitely with its border values, which SciPy's `mode='nearest'` approximates with 12 voxels
/// of padding. Both recursions therefore start from closed forms.
pub(super) fn prefilter(rows: &mut [f32], lanes: usize) {
    let length = rows.len() / lanes;
    let pole = POLE as f32;
    if length == 1 {
        rows.iter_mut()
            .for_each(|value| *value *= (1.0 / GAIN) as f32);
        return;
    }
    // Causal: c⁺ₖ = sₖ + z·c⁺ₖ₋₁, where all earlier samples are s₀.
    let start = (1.0 / (1.0 - POLE)) as f32;
    rows[..lanes].iter_mut().for_each(|value| *value *= start);
    for row in 1..length - 1 {
        let (previous, current) = neighbours(rows, row, lanes);
        for (value, previous) in current.iter_mut().zip(previous.iter()) {
            *value += pole * *previous;
        }
    }
    // The last coefficient, where all later samples are the last one: a sum of two geometric series.
    let decayed = 1.0 / (1.0 - POLE * POLE);
    let limit = 1.0 / (1.0 - POLE);
    let of_sample = (-POLE * (limit * limit + (1.0 - limit) * decayed)) as f32;
    let of_previous = (-POLE * POLE * decayed) as f32;
    let (previous, current) = neighbours(rows, length - 1, lanes);
    for (value, previous) in current.iter_mut().zip(previous.iter()) {
        *value = of_sample * *value + of_previous * *previous;
    }
    // Anticausal: cₖ = z·(cₖ₊₁ − c⁺ₖ).
    for row in (1..length).rev() {
        let (previous, current) = neighbours(rows, row, lanes);
        for (value, next) in previous.iter_mut().zip(current.iter()) {
            *value = pole * (*next - *value);
        }
    }
}

/// Rows `row − 1` and `row`.
fn neighbours(rows: &mut [f32], row: usize, lanes: usize) -> (&mut [f32], &mut [f32]) {
    rows[(row - 1) * lanes..(row + 1) * lanes].split_at_mut(lanes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (c₋₁ + 4·c₀ + c₁)/6 must give the samples back, whatever the length, in every lane.
    #[test]
    fn coefficients_reproduce_the_samples() {
        let sample = |row: usize, lane: usize| ((row * 7 + lane * 3) % 11) as f64 - 4.0;
        for length in 1..12 {
            let lanes = 5;
            let mut rows: Vec<f32> = (0..length * lanes)
                .map(|i| sample(i / lanes, i % lanes) as f32)
                .collect();
            prefilter(&mut rows, lanes);
            for lane in 0..lanes {
                let at = |row: usize| f64::from(rows[row * lanes + lane]) * GAIN;
                let (first, last) = (sample(0, lane), sample(length - 1, lane));
                for row in 0..length {
                    let left = if row == 0 {
                        first + (at(0) - first) * POLE
                    } else {
                        at(row - 1)
                    };
                    let right = if row + 1 == length {
                        last + (at(row) - last) * POLE
                    } else {
                        at(row + 1)
                    };
                    let value = (left + 4.0 * at(row) + right) / 6.0;
                    assert!(
                        (value - sample(row, lane)).abs() < 1e-5,
                        "{length} {row} {value}"
                    );
                }
            }
        }
    }
}
