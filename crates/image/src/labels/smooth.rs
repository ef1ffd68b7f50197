//! Surface smoothing of masks.

use ndarray::{Array3, ArrayView3, ArrayViewMut1, Axis};

/// Radius of the Gaussian kernel in standard deviations (SciPy's `truncate`).
const TRUNCATE: f64 = 4.0;

/// Kernel radius in voxels of a Gaussian with this standard deviation in voxels.
pub(super) fn radius(sd: f64) -> usize {
    (TRUNCATE * sd + 0.5) as usize
}

/// Smooths the mask with a Gaussian of standard deviations `sd_zyx` in voxels and thresholds it at 0.5, repeating
/// border voxels. As `scipy.ndimage.gaussian_filter(mask.astype(float), sd, mode="nearest") > 0.5`.
///
/// # Shapes
/// `mask`, output: (z, y, x)
pub fn gaussian_smoothed(mask: ArrayView3<bool>, sd_zyx: [f64; 3]) -> Array3<bool> {
    let mut values = mask.mapv(|inside| f32::from(u8::from(inside)));
    for (axis, sd) in sd_zyx.into_iter().enumerate() {
        let weights = gaussian(sd);
        if weights.len() > 1 {
            filter_lines(
                &mut values,
                axis,
                |line, padded| {
                    for (to, window) in line.iter_mut().zip(padded.windows(weights.len())) {
                        let products = window.iter().zip(&weights).map(|(v, w)| f64::from(*v) * w);
                        *to = products.sum::<f64>() as f32;
                    }
                },
                weights.len() / 2,
            );
        }
    }
    values.mapv(|value| value > 0.5)
}

/// Median filter over `side`³ voxels, repeating border voxels. As
/// `scipy.ndimage.median_filter(mask, size=side, mode="nearest")`.
///
/// # Shapes
/// `mask`, output: (z, y, x)
pub fn median(mask: ArrayView3<bool>, side: usize) -> Array3<bool> {
    let mut counts = mask.mapv(|inside| f32::from(u8::from(inside)));
    for axis in 0..3 {
        filter_lines(
            &mut counts,
            axis,
            |line, padded| {
                for (to, window) in line.iter_mut().zip(padded.windows(side)) {
                    *to = window.iter().sum(); // whole numbers: exact
                }
            },
            side / 2,
        );
    }
    let half = side.pow(3) as f32 / 2.0;
    counts.mapv(|count| count > half)
}

/// Gaussian weights that sum to 1.
fn gaussian(sd: f64) -> Vec<f64> {
    let radius = radius(sd) as i64;
    let weights: Vec<f64> = (-radius..=radius)
        .map(|offset| (-0.5 * (offset as f64 / sd).powi(2)).exp())
        .collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

/// Calls `change` with every line along `axis` and a copy of it padded by `reach` repeated voxels on both sides.
fn filter_lines(
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
