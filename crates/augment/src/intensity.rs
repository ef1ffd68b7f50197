//! Changes of one channel's values. A plane is a patch's channel, row by row, values in [0, 1].

use rand::Rng;

use crate::fast::{add_normals, raise};
use crate::wide::wide;

/// Values times `factor` (nnU-Net's multiplicative brightness).
pub fn brightness(plane: &mut [f32], factor: f32) {
    plane.iter_mut().for_each(|v| *v *= factor);
}

/// The distance from the mean times `factor`, kept within the range that the values had (nnU-Net's
/// contrast with `preserve_range`).
pub fn contrast(plane: &mut [f32], factor: f32) {
    let Statistics {
        mean, low, high, ..
    } = Statistics::of(plane);
    stretch(plane, (mean as f32, mean as f32), factor);
    cut_off(plane, low, high);
}

wide! {
    /// The distance from the first of the two numbers times `factor`, from the second.
    fn stretch(plane: &mut [f32], ends: (f32, f32), factor: f32) {
        let (from, to) = ends;
        for value in plane {
            *value = (*value - from) * factor + to;
        }
    }
}

wide! {
    fn cut_off(plane: &mut [f32], low: f32, high: f32) {
        for value in plane {
            let above = if *value > low { *value } else { low };
            *value = if above < high { above } else { high };
        }
    }
}

/// What lies beyond the window's ends becomes them.
pub(super) fn clamp(plane: &mut [f32]) {
    cut_off(plane, 0.0, 1.0);
}

/// Values, scaled to [0, 1] by their own range, to the power of `exponent`; mean and standard deviation
/// stay what they were (nnU-Net's gamma with `retain_stats`). `inverted` does so to the values' negatives.
pub fn gamma(plane: &mut [f32], exponent: f32, inverted: bool) {
    /// Keeps a plane of one value from being divided by 0, as in batchgenerators.
    const EPSILON: f32 = 1e-7;
    let before = Statistics::of(plane);
    let width = before.high - before.low;
    if width.is_nan() || width <= 0.0 {
        return;
    }
    let scale = 1.0 / (width + EPSILON);
    // The share of the range, from its low end or from its high end on.
    let (from, scale, width) = match inverted {
        true => (before.high, -scale, -width),
        false => (before.low, scale, width),
    };
    raise(plane, from, scale, exponent, width);
    let after = Statistics::of(plane);
    let factor = (before.sd / after.sd.max(1e-8)) as f32;
    stretch(plane, (after.mean as f32, before.mean as f32), factor);
}

/// Gaussian noise of standard deviation `sd` on top.
pub fn noise(plane: &mut [f32], sd: f32, rng: &mut impl Rng) {
    add_normals(plane, sd, rng);
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
    smooth(plane, width, &weights);
}

wide! {
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
                // The weights are the same on both sides.
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

/// What values are like together.
struct Statistics {
    low: f32,
    high: f32,
    mean: f64,
    /// Divided by n.
    sd: f64,
}

impl Statistics {
    /// In one pass.
    fn of(plane: &[f32]) -> Self {
        statistics(plane)
    }
}

/// Eight of everything side by side, which processors take at once.
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

wide! {
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
