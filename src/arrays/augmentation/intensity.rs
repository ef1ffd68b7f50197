//! Changes of one channel's values. A plane is a patch's channel, row by row, values in [0, 1].

use rand::Rng;

use crate::arrays::gaussian::gaussians;

/// Values times `factor` (nnU-Net's multiplicative brightness).
pub fn brightness(plane: &mut [f32], factor: f32) {
    plane.iter_mut().for_each(|v| *v *= factor);
}

/// The distance from the mean times `factor`, kept within the range that the values had (nnU-Net's
/// contrast with `preserve_range`).
pub fn contrast(plane: &mut [f32], factor: f32) {
    let mean = moments(plane).0 as f32;
    let (low, high) = range(plane);
    for value in plane {
        *value = ((*value - mean) * factor + mean).max(low).min(high);
    }
}

/// Values, scaled to [0, 1] by their own range, to the power of `exponent`; mean and standard deviation
/// stay what they were (nnU-Net's gamma with `retain_stats`). `inverted` does so to the values' negatives.
pub fn gamma(plane: &mut [f32], exponent: f32, inverted: bool) {
    /// Keeps a plane of one value from being divided by 0, as in batchgenerators.
    const EPSILON: f32 = 1e-7;
    let (low, high) = range(plane);
    let width = high - low;
    if width.is_nan() || width <= 0.0 {
        return;
    }
    let (mean, sd) = moments(plane);
    let scale = 1.0 / (width + EPSILON);
    for value in plane.iter_mut() {
        let share = if inverted {
            high - *value
        } else {
            *value - low
        } * scale;
        let changed = share.max(0.0).powf(exponent) * width;
        *value = if inverted { -changed } else { changed };
    }
    let (changed_mean, changed_sd) = moments(plane);
    let factor = (sd / changed_sd.max(1e-8)) as f32;
    let (from, to) = (changed_mean as f32, mean as f32);
    for value in plane {
        *value = (*value - from) * factor + to;
    }
}

/// Gaussian noise of standard deviation `sd` on top.
pub fn noise(plane: &mut [f32], sd: f32, rng: &mut impl Rng) {
    let noise = gaussians(rng, plane.len());
    for (value, noise) in plane.iter_mut().zip(noise) {
        *value += noise as f32 * sd;
    }
}

/// Gaussian smoothing with `sigma` in pixels (as `scipy.ndimage.gaussian_filter`, mode `reflect`,
/// truncated at 4 sigma).
pub fn blur(plane: &mut [f32], width: usize, sigma: f64) {
    let Some(weights) = smoothing(sigma) else {
        return;
    };
    if width == 0 {
        return;
    }
    let radius = weights.len() / 2;
    let mut padded = vec![0.0f32; width + 2 * radius];
    for row in plane.chunks_exact_mut(width) {
        for (at, to) in padded.iter_mut().enumerate() {
            *to = row[reflected(at as isize - radius as isize, width)];
        }
        row.fill(0.0);
        for (k, weight) in weights.iter().enumerate() {
            for (to, from) in row.iter_mut().zip(&padded[k..]) {
                *to += weight * from;
            }
        }
    }
    let height = plane.len() / width;
    let across = plane.to_vec();
    for (y, row) in plane.chunks_exact_mut(width).enumerate() {
        row.fill(0.0);
        for (k, weight) in weights.iter().enumerate() {
            let from = reflected((y + k) as isize - radius as isize, height) * width;
            for (to, from) in row.iter_mut().zip(&across[from..from + width]) {
                *to += weight * from;
            }
        }
    }
}

/// Weights of a Gaussian over 2 · radius + 1 pixels; none where it does not reach the next pixel.
fn smoothing(sigma: f64) -> Option<Vec<f32>> {
    let radius = (4.0 * sigma + 0.5) as usize;
    let weights: Vec<f64> = (0..=2 * radius)
        .map(|k| (-0.5 * ((k as f64 - radius as f64) / sigma).powi(2)).exp())
        .collect();
    let sum: f64 = weights.iter().sum();
    (radius > 0).then(|| weights.into_iter().map(|w| (w / sum) as f32).collect())
}

/// As taken with fewer pixels: a share `kept` of them along each axis by nearest neighbour, and back by
/// linear interpolation (nnU-Net v2's low-resolution simulation; PyTorch's `interpolate`, modes
/// `nearest-exact` and `bilinear`).
pub fn low_resolution(plane: &mut [f32], width: usize, kept: f64) {
    if width == 0 || plane.is_empty() {
        return;
    }
    let height = plane.len() / width;
    let rows = Fewer::new(height, kept);
    let columns = Fewer::new(width, kept);
    let coarse: Vec<f32> = rows
        .kept
        .iter()
        .flat_map(|y| columns.kept.iter().map(move |x| (*y, *x)))
        .map(|(y, x)| plane[y * width + x])
        .collect();
    let count = columns.kept.len();
    for (row, (above, below, down)) in plane.chunks_exact_mut(width).zip(&rows.back) {
        let (above, below) = (&coarse[above * count..], &coarse[below * count..]);
        for (to, (left, right, along)) in row.iter_mut().zip(&columns.back) {
            let top = above[*left] + along * (above[*right] - above[*left]);
            let bottom = below[*left] + along * (below[*right] - below[*left]);
            *to = top + down * (bottom - top);
        }
    }
}

/// [`blur`] across the planes of a volume, `plane` values each.
pub fn blur_depth(stack: &mut [f32], plane: usize, sigma: f64) {
    let Some(weights) = smoothing(sigma) else {
        return;
    };
    if plane == 0 {
        return;
    }
    let (depth, radius) = (stack.len() / plane, weights.len() / 2);
    let before = stack.to_vec();
    for (z, to) in stack.chunks_exact_mut(plane).enumerate() {
        to.fill(0.0);
        for (k, weight) in weights.iter().enumerate() {
            let from = reflected((z + k) as isize - radius as isize, depth) * plane;
            for (to, from) in to.iter_mut().zip(&before[from..from + plane]) {
                *to += weight * from;
            }
        }
    }
}

/// [`low_resolution`] across the planes of a volume, `plane` values each.
pub fn low_resolution_depth(stack: &mut [f32], plane: usize, kept: f64) {
    if plane == 0 || stack.is_empty() {
        return;
    }
    let planes = Fewer::new(stack.len() / plane, kept);
    let before = stack.to_vec();
    let at = |index: usize| {
        let first = planes.kept[index] * plane;
        &before[first..first + plane]
    };
    for (to, (low, high, along)) in stack.chunks_exact_mut(plane).zip(&planes.back) {
        for ((to, low), high) in to.iter_mut().zip(at(*low)).zip(at(*high)) {
            *to = low + along * (high - low);
        }
    }
}

/// One axis with fewer pixels: which are kept, and between which two each pixel lies afterwards.
struct Fewer {
    kept: Vec<usize>,
    back: Vec<(usize, usize, f32)>,
}

impl Fewer {
    fn new(length: usize, share: f64) -> Self {
        let count = ((length as f64 * share).round() as usize).clamp(1, length);
        let ratio = length as f64 / count as f64;
        let kept = (0..count)
            .map(|i| (((i as f64 + 0.5) * ratio) as usize).min(length - 1))
            .collect();
        let back = (0..length)
            .map(|i| {
                let at = ((i as f64 + 0.5) / ratio - 0.5).max(0.0);
                let low = (at as usize).min(count - 1);
                (low, (low + 1).min(count - 1), (at - low as f64) as f32)
            })
            .collect();
        Self { kept, back }
    }
}

/// The index that `d c b a | a b c d | d c b a` shows at `at`.
fn reflected(at: isize, length: usize) -> usize {
    let at = at.rem_euclid(2 * length as isize) as usize;
    if at < length { at } else { 2 * length - 1 - at }
}

fn range(plane: &[f32]) -> (f32, f32) {
    plane
        .iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), v| {
            (low.min(*v), high.max(*v))
        })
}

/// Mean and standard deviation (divided by n).
fn moments(plane: &[f32]) -> (f64, f64) {
    let n = plane.len().max(1) as f64;
    let mean = sum(plane, |v| v) / n;
    let variance = sum(plane, |v| (v - mean) * (v - mean)) / n;
    (mean, variance.sqrt())
}

/// The sum of `of` over the values, in eight sums side by side, which processors add at once.
fn sum(plane: &[f32], of: impl Fn(f64) -> f64) -> f64 {
    let (eights, rest) = plane.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for eight in eights {
        for (sum, value) in sums.iter_mut().zip(eight) {
            *sum += of(f64::from(*value));
        }
    }
    let rest: f64 = rest.iter().map(|v| of(f64::from(*v))).sum();
    sums.iter().sum::<f64>() + rest
}
