//! Intensity changes of one channel. A plane is one channel of a patch, row by row, with values in [0, 1].

use rand::Rng;

use crate::fast_math::{add_normals, raise};
use crate::simd::simd;

/// Multiplies values by `factor` (nnU-Net's multiplicative brightness).
pub fn brightness(plane: &mut [f32], factor: f32) {
    plane.iter_mut().for_each(|v| *v *= factor);
}

/// Multiplies the distance from the mean by `factor` and clips to the original range (nnU-Net's contrast with
/// `preserve_range`).
pub fn contrast(plane: &mut [f32], factor: f32) {
    let Statistics {
        mean, low, high, ..
    } = Statistics::of(plane);
    stretch(plane, (mean as f32, mean as f32), factor);
    clip(plane, low, high);
}

simd! {
    /// Computes (value − `ends.0`) · `factor` + `ends.1`.
    fn stretch(plane: &mut [f32], ends: (f32, f32), factor: f32) {
        let (from, to) = ends;
        for value in plane {
            *value = (*value - from) * factor + to;
        }
    }
}

simd! {
    fn clip(plane: &mut [f32], low: f32, high: f32) {
        for value in plane {
            let above = if *value > low { *value } else { low };
            *value = if above < high { above } else { high };
        }
    }
}

/// Clips to [0, 1], the ends of the window.
pub(super) fn clamp(plane: &mut [f32]) {
    clip(plane, 0.0, 1.0);
}

/// Gamma correction on values scaled to [0, 1] by their own range; mean and standard deviation are restored
/// (nnU-Net's gamma with `retain_stats`). `inverted` applies it to the negated values.
pub fn gamma(plane: &mut [f32], exponent: f32, inverted: bool) {
    /// Avoids division by 0 on a constant plane, as in batchgenerators.
    const EPSILON: f32 = 1e-7;
    let before = Statistics::of(plane);
    let width = before.high - before.low;
    if width.is_nan() || width <= 0.0 {
        return;
    }
    let scale = 1.0 / (width + EPSILON);
    // The fraction of the range, measured from its low or its high end.
    let (from, scale, width) = match inverted {
        true => (before.high, -scale, -width),
        false => (before.low, scale, width),
    };
    raise(plane, from, scale, exponent, width);
    let after = Statistics::of(plane);
    let factor = (before.sd / after.sd.max(1e-8)) as f32;
    stretch(plane, (after.mean as f32, before.mean as f32), factor);
}

/// Adds Gaussian noise of standard deviation `sd`.
pub fn noise(plane: &mut [f32], sd: f32, rng: &mut impl Rng) {
    add_normals(plane, sd, rng);
}

/// Gaussian blur with `sigma` in pixels (as `scipy.ndimage.gaussian_filter`, mode `reflect`, truncated at 4 sigma).
pub fn blur(plane: &mut [f32], width: usize, sigma: f64) {
    let Some(weights) = smoothing(sigma) else {
        return;
    };
    if width == 0 {
        return;
    }
    smooth(plane, width, &weights);
}

simd! {
    fn smooth(plane: &mut [f32], width: usize, weights: &[f32]) {
        let radius = weights.len() / 2;
        let mut padded = vec![0.0f32; width + 2 * radius];
        for row in plane.chunks_exact_mut(width) {
            padded[radius..radius + width].copy_from_slice(row);
            for beyond in 0..radius {
                let at = beyond as isize;
                padded[radius - 1 - beyond] = row[reflected(-1 - at, width)];
                padded[radius + width + beyond] = row[reflected(width as isize + at, width)];
            }
            let middle = padded[radius..].iter();
            row.iter_mut().zip(middle).for_each(|(to, from)| *to = weights[radius] * from);
            for (k, weight) in weights[..radius].iter().enumerate() {
                // The weights are symmetric.
                let pairs = padded[k..].iter().zip(&padded[2 * radius - k..]);
                for (to, (left, right)) in row.iter_mut().zip(pairs) {
                    *to += weight * (left + right);
                }
            }
        }
        let height = plane.len() / width;
        let across = plane.to_vec();
        let row_at = |y: isize| {
            let from = reflected(y, height) * width;
            &across[from..from + width]
        };
        for (y, row) in plane.chunks_exact_mut(width).enumerate() {
            let y = y as isize;
            row.iter_mut().zip(row_at(y)).for_each(|(to, from)| *to = weights[radius] * from);
            for (k, weight) in weights[..radius].iter().enumerate() {
                let away = (radius - k) as isize;
                let pairs = row_at(y - away).iter().zip(row_at(y + away));
                for (to, (above, below)) in row.iter_mut().zip(pairs) {
                    *to += weight * (above + below);
                }
            }
        }
    }
}

/// Weights of a Gaussian over 2 · radius + 1 pixels; `None` if it does not reach the next pixel.
fn smoothing(sigma: f64) -> Option<Vec<f32>> {
    let radius = (4.0 * sigma + 0.5) as usize;
    let weights: Vec<f64> = (0..=2 * radius)
        .map(|k| (-0.5 * ((k as f64 - radius as f64) / sigma).powi(2)).exp())
        .collect();
    let sum: f64 = weights.iter().sum();
    (radius > 0).then(|| weights.into_iter().map(|w| (w / sum) as f32).collect())
}

/// Simulates a lower resolution: keeps a fraction `kept` of the pixels along each axis by nearest neighbour, then
/// resamples by linear interpolation (nnU-Net v2's low-resolution simulation; PyTorch's `interpolate`, modes
/// `nearest-exact` and `bilinear`).
pub fn low_resolution(plane: &mut [f32], width: usize, kept: f64) {
    if width == 0 || plane.is_empty() {
        return;
    }
    let height = plane.len() / width;
    let rows = Resampling::new(height, kept);
    let columns = Resampling::new(width, kept);
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
    let planes = Resampling::new(stack.len() / plane, kept);
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

/// Downsampling of one axis: the pixels that are kept, and for each original pixel its two neighbours and weight.
struct Resampling {
    kept: Vec<usize>,
    back: Vec<(usize, usize, f32)>,
}

impl Resampling {
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

/// The index at `at` under reflection: `d c b a | a b c d | d c b a`.
fn reflected(at: isize, length: usize) -> usize {
    let at = at.rem_euclid(2 * length as isize) as usize;
    if at < length { at } else { 2 * length - 1 - at }
}

/// Summary statistics of a plane.
struct Statistics {
    low: f32,
    high: f32,
    mean: f64,
    /// Population standard deviation (divided by n).
    sd: f64,
}

impl Statistics {
    /// Computed in one pass.
    fn of(plane: &[f32]) -> Self {
        statistics(plane)
    }
}

/// Eight accumulators, so that the compiler vectorises.
struct Lanes {
    low: [f32; 8],
    high: [f32; 8],
    sums: [f64; 8],
    squares: [f64; 8],
}

impl Lanes {
    #[inline(always)]
    fn take(&mut self, values: &[f32]) {
        for (lane, value) in values.iter().enumerate() {
            let (low, high) = (self.low[lane], self.high[lane]);
            self.low[lane] = if *value < low { *value } else { low };
            self.high[lane] = if *value > high { *value } else { high };
            let value = f64::from(*value);
            self.sums[lane] += value;
            self.squares[lane] += value * value;
        }
    }
}

simd! {
    fn statistics(plane: &[f32]) -> Statistics {
        let mut lanes = Lanes {
            low: [f32::INFINITY; 8],
            high: [f32::NEG_INFINITY; 8],
            sums: [0.0; 8],
            squares: [0.0; 8],
        };
        let (eights, rest) = plane.as_chunks::<8>();
        for eight in eights {
            lanes.take(eight);
        }
        lanes.take(rest);
        let n = plane.len().max(1) as f64;
        let mean = lanes.sums.iter().sum::<f64>() / n;
        let variance = lanes.squares.iter().sum::<f64>() / n - mean * mean;
        Statistics {
            low: lanes.low.into_iter().fold(f32::INFINITY, f32::min),
            high: lanes.high.into_iter().fold(f32::NEG_INFINITY, f32::max),
            mean,
            sd: variance.max(0.0).sqrt(),
        }
    }
}
