//! Smoothing the surface of a mask.

use ndarray::{Array3, ArrayView3, ArrayViewMut1, Axis};

/// Where a Gaussian ends, in standard deviations (SciPy's `truncate`).
const TRUNCATE: f64 = 4.0;

/// Voxels on each side that a Gaussian with this standard deviation (in voxels) looks at.
pub(super) fn radius(sd: f64) -> usize {
    (TRUNCATE * sd + 0.5) as usize
}

/// The mask blurred by a Gaussian with standard deviations `sd_zyx` in voxels, where it is above one half; the
/// array's border repeats. As `scipy.ndimage.gaussian_filter(mask.astype(float), sd, mode="nearest") > 0.5`.
///
/// # Shapes
/// `mask`, output: (z, y, x)
pub fn gaussian_at_half(mask: ArrayView3<bool>, sd_zyx: [f64; 3]) -> Array3<bool> {
    let mut values = mask.mapv(|inside| f32::from(u8::from(inside)));
    for (axis, sd) in sd_zyx.into_iter().enumerate() {
        let weights = gaussian(sd);
        if weights.len() > 1 {
            along(
                &mut values,
                axis,
                |line, padded| {
                    for (to, seen) in line.iter_mut().zip(padded.windows(weights.len())) {
                        let products = seen.iter().zip(&weights).map(|(v, w)| f64::from(*v) * w);
                        *to = products.sum::<f64>() as f32;
                    }
                },
                weights.len() / 2,
            );
        }
    }
    values.mapv(|value| value > 0.5)
}

/// What most of the `side`³ voxels around a voxel say; the array's border repeats. As
/// `scipy.ndimage.median_filter(mask, size=side, mode="nearest")`.
///
/// # Shapes
/// `mask`, output: (z, y, x)
pub fn median(mask: ArrayView3<bool>, side: usize) -> Array3<bool> {
    let mut counts = mask.mapv(|inside| f32::from(u8::from(inside)));
    for axis in 0..3 {
        along(
            &mut counts,
            axis,
            |line, padded| {
                for (to, seen) in line.iter_mut().zip(padded.windows(side)) {
                    *to = seen.iter().sum(); // whole numbers: exact
                }
            },
            side / 2,
        );
    }
    let half = side.pow(3) as f32 / 2.0;
    counts.mapv(|count| count > half)
}

/// Weights that add up to 1.
fn gaussian(sd: f64) -> Vec<f64> {
    let radius = radius(sd) as i64;
    let weights: Vec<f64> = (-radius..=radius)
        .map(|offset| (-0.5 * (offset as f64 / sd).powi(2)).exp())
        .collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

/// Gives `change` every line along `axis` with a copy that its ends extend by `reach` on both sides.
fn along(
    values: &mut Array3<f32>,
    axis: usize,
    change: impl Fn(&mut ArrayViewMut1<f32>, &[f32]),
    reach: usize,
) {
    let mut padded = Vec::new();
    for mut line in values.lanes_mut(Axis(axis)) {
        let (Some(first), Some(last)) = (line.first().copied(), line.last().copied()) else {
            return;
        };
        padded.clear();
        padded.resize(reach, first);
        padded.extend(line.iter());
        padded.resize(padded.len() + reach, last);
        change(&mut line, &padded);
    }
}
