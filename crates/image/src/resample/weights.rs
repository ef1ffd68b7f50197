//! Interpolation weights along one axis: the source voxels of every target voxel, and their weights.

use super::bspline::{GAIN, POLE};

/// For each target index along one axis, `width` neighbouring source indices and their weights.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Taps {
    pub width: usize,
    /// First source index per target index; `starts[i] + width` never exceeds the source's length.
    pub starts: Vec<usize>,
    /// `width` weights per target index.
    pub weights: Vec<f32>,
}

/// Beyond this distance from the border the spline equals the border value to within 1e-30.
const FAR: f64 = 64.0;

impl Taps {
    /// The number of target voxels.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Copies the voxel at each (integer) position, clamped to the source.
    pub fn copies(positions: &[f64], length: usize) -> Self {
        let starts = positions.iter().map(|p| nearest_index(*p, length));
        Self {
            width: 1,
            starts: starts.collect(),
            weights: vec![1.0; positions.len()],
        }
    }

    /// Linear interpolation at fractional `positions` in a source of `length` voxels, clamped to it.
    pub fn linear(positions: &[f64], length: usize) -> Self {
        let width = length.min(2);
        let mut taps = Self::with_capacity(width, positions.len());
        for position in positions {
            let (low, _, fraction) = linear_neighbours(*position, length);
            // At the last voxel the pair must start one earlier to stay inside.
            let start = low.min(length - width);
            taps.starts.push(start);
            match (width, start == low) {
                (1, _) => taps.weights.push(1.0),
                (_, true) => taps
                    .weights
                    .extend([(1.0 - fraction) as f32, fraction as f32]),
                (_, false) => taps.weights.extend([0.0, 1.0]),
            }
        }
        taps
    }

    /// Cubic B-spline weights for the coefficients of [`super::bspline::prefilter`], for a source of `length` voxels
    /// whose border voxels repeat infinitely.
    ///
    /// Coefficients beyond the source decay geometrically from the first one, c₀, towards the border
    /// voxel s₀: c₋ₘ = s₀ + (c₀ − s₀)·zᵐ, and s₀ = ((4 + z)·c₀ + c₁)/(5 + z) (from the spline's value
    /// at the border). Their weights can therefore be added to those of c₀ and c₁, without padding.
    pub fn cubic(positions: &[f64], length: usize) -> Self {
        let width = length.min(4);
        let mut taps = Self::with_capacity(width, positions.len());
        let last = length as i64 - 1;
        for position in positions {
            let position = position.clamp(-FAR, length as f64 + FAR);
            let floor = position.floor();
            let first = floor as i64 - 1;
            let start = first.clamp(0, (length - width) as i64);
            let mut weights = [0.0; 4];
            let mut add = |index: i64, weight: f64| weights[(index - start) as usize] += weight;
            for (index, weight) in (first..).zip(bspline_weights(position - floor)) {
                let beyond = (-index).max(index - last);
                if beyond <= 0 {
                    add(index, weight);
                    continue;
                }
                let border = index.clamp(0, last);
                let inner = if border == 0 { last.min(1) } else { last - 1 };
                let decay = POLE.powi(beyond as i32);
                let of_border = (4.0 + POLE) / (5.0 + POLE);
                add(border, weight * (decay + (1.0 - decay) * of_border));
                add(inner, weight * (1.0 - decay) * (1.0 - of_border));
            }
            taps.starts.push(start as usize);
            let weights = weights.iter().map(|weight| (weight * GAIN) as f32);
            taps.weights.extend(weights.take(width));
        }
        taps
    }

    fn with_capacity(width: usize, targets: usize) -> Self {
        Self {
            width,
            starts: Vec::with_capacity(targets),
            weights: Vec::with_capacity(width * targets),
        }
    }
}

/// The nearest index, clamped to the source; ties go to the higher index.
pub(super) fn nearest_index(position: f64, length: usize) -> usize {
    /// Tolerance for rounding in two affines; without it, a tie could go either way.
    const EPSILON: f64 = 1e-6;
    ((position + 0.5 + EPSILON).floor().max(0.0) as usize).min(length - 1)
}

/// The two voxels around a position clamped to the source, and the weight of the second.
pub(super) fn linear_neighbours(position: f64, length: usize) -> (usize, usize, f64) {
    let position = position.clamp(0.0, length as f64 - 1.0);
    let low = position.floor();
    let index = low as usize;
    (index, (index + 1).min(length - 1), position - low)
}

/// The cubic B-spline at distances 1 + t, t, 1 − t and 2 − t.
fn bspline_weights(t: f64) -> [f64; 4] {
    let u = 1.0 - t;
    [
        u * u * u / 6.0,
        (4.0 - 3.0 * t * t * (2.0 - t)) / 6.0,
        (4.0 - 3.0 * u * u * (2.0 - u)) / 6.0,
        t * t * t / 6.0,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(taps: &Taps) -> Vec<f32> {
        taps.weights
            .chunks(taps.width)
            .map(|w| w.iter().sum())
            .collect()
    }

    #[test]
    fn weights_stay_inside_the_source_and_sum_to_one() {
        let positions: Vec<f64> = (-300..900).map(|i| f64::from(i) * 0.137).collect();
        for length in 1..9 {
            for (taps, one) in [
                (Taps::linear(&positions, length), 1.0),
                (Taps::cubic(&positions, length), GAIN as f32),
                (Taps::copies(&positions, length), 1.0),
            ] {
                assert_eq!(taps.len(), positions.len());
                assert!(taps.starts.iter().all(|start| start + taps.width <= length));
                for sum in sums(&taps) {
                    assert!((sum - one).abs() < 1e-6 * one, "{sum} for {length} voxels");
                }
            }
        }
    }

    #[test]
    fn ties_go_to_the_higher_voxel() {
        let indices =
            [-3.0, -0.5, 0.49, 0.5 - 1e-9, 0.5, 1.4, 1.5, 7.0].map(|p| nearest_index(p, 3));
        assert_eq!(indices, [0, 0, 0, 1, 1, 1, 2, 2]);
    }
}
