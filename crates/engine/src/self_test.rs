//! Self-test of an engine: convolutions with known results.

use std::time::{Duration, Instant};

use crate::device::Compute;
use ctseg_base::{Error, Result};

/// Length of each axis.
const SIDE: usize = 4;

/// Convolves ones with kernels of ones, 3 × 3 and 3 × 3 × 3 with padding 1, in the precision of `compute`, and
/// returns the time taken. Each result is the number of ones that its kernel covers.
///
/// # Errors
/// The engine fails, or a result is wrong.
pub fn check_convolutions(compute: &Compute) -> Result<Duration> {
    let engine = compute.choice.engine()?;
    let started = Instant::now();
    for dimensions in [2, 3] {
        let found = engine.ones_convolved(compute, dimensions, SIDE)?;
        let expected = expected(dimensions);
        if found != expected {
            let wrong = found
                .iter()
                .zip(&expected)
                .position(|(one, other)| one != other);
            let at = wrong.unwrap_or(found.len().min(expected.len()));
            return Err(Error::invalid(format!(
                "a {dimensions}D convolution on {compute} gives {:?} at index {at}, expected {:?}",
                found.get(at),
                expected.get(at)
            )));
        }
    }
    Ok(started.elapsed())
}

/// Along each axis a kernel covers 2 voxels at the ends and 3 in between.
fn expected(dimensions: usize) -> Vec<f32> {
    let covered = |at: usize| if at == 0 || at == SIDE - 1 { 2.0 } else { 3.0 };
    let places = SIDE.pow(dimensions as u32);
    let along =
        |place: usize| (0..dimensions).map(move |axis| place / SIDE.pow(axis as u32) % SIDE);
    (0..places)
        .map(|place| along(place).map(covered).product())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_expected_is_what_is_counted_by_hand() {
        let plane = [
            4.0, 6.0, 6.0, 4.0, //
            6.0, 9.0, 9.0, 6.0, //
            6.0, 9.0, 9.0, 6.0, //
            4.0, 6.0, 6.0, 4.0,
        ];
        assert_eq!(expected(2), plane);
        let volume = expected(3);
        assert_eq!(volume.iter().sum::<f32>(), 1000.0); // (2 + 3 + 3 + 2)³
        assert_eq!((volume[0], volume[21]), (8.0, 27.0));
    }
}
