//! Statistics of one score over cases, with bootstrap confidence intervals.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::overlap::Summary;

/// Number of bootstrap resamples.
pub const RESAMPLES: usize = 2000;

/// Fixed bootstrap seed, so that intervals are reproducible.
const SEED: u64 = 0x0C75_E65E;

/// Aggregate of one score over cases; undefined scores are excluded but counted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Aggregate {
    /// Mean, standard deviation, range and counts.
    #[serde(flatten)]
    pub summary: Summary,
    /// Median; `None` if no case has a score.
    pub median: Option<f64>,
    /// First and third quartile, interpolated linearly as by NumPy's `quantile`.
    pub quartiles: Option<[f64; 2]>,
    /// 95 % confidence interval of the mean by percentile bootstrap (Efron 1979); `None` with fewer than two cases.
    pub mean_ci95: Option<[f64; 2]>,
}

impl Aggregate {
    /// Aggregate of one score per case.
    pub fn of(scores: impl IntoIterator<Item = Option<f64>>) -> Self {
        let scores: Vec<Option<f64>> = scores.into_iter().collect();
        let mut defined: Vec<f64> = scores
            .iter()
            .flatten()
            .copied()
            .filter(|score| score.is_finite())
            .collect();
        let mean_ci95 = bootstrap_ci95(defined.len(), |drawn| {
            let sum: f64 = drawn.iter().map(|case| defined[*case]).sum();
            Some(sum / drawn.len() as f64)
        });
        defined.sort_by(f64::total_cmp);
        let quartile = |q| quantile(&defined, q);
        Self {
            summary: Summary::of(scores),
            median: quartile(0.5),
            quartiles: quartile(0.25).zip(quartile(0.75)).map(|(q1, q3)| [q1, q3]),
            mean_ci95,
        }
    }
}

/// The `q`-th quantile (0 to 1) of sorted values, with linear interpolation.
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = q.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (
        sorted[place.floor() as usize],
        sorted[place.ceil() as usize],
    );
    Some(below + (above - below) * place.fract())
}

/// 95 % percentile bootstrap confidence interval of a `statistic` of `cases` cases. The `statistic` gets the indices of
/// the cases drawn with replacement; resamples where it is `None` are skipped. `None` with fewer than two cases.
pub fn bootstrap_ci95(
    cases: usize,
    statistic: impl Fn(&[usize]) -> Option<f64>,
) -> Option<[f64; 2]> {
    if cases < 2 {
        return None;
    }
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let mut drawn = vec![0; cases];
    let mut values: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            drawn.fill_with(|| random.random_range(0..cases));
            statistic(&drawn)
        })
        .collect();
    values.sort_by(f64::total_cmp);
    Some([quantile(&values, 0.025)?, quantile(&values, 0.975)?])
}
