//! What is left of one score over many cases.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::overlap::Summary;

/// How often cases are drawn anew for an interval.
pub const RESAMPLES: usize = 2000;

/// Every interval is drawn with these numbers, so that it is the same twice.
const SEED: u64 = 0x0C75_E65E;

/// One score over many cases; where it is undefined, cases are left out and counted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Aggregate {
    #[serde(flatten)]
    pub summary: Summary,
    pub median: Option<f64>,
    /// First and third quartile, between neighbours as NumPy's `quantile` does it.
    pub quartiles: Option<[f64; 2]>,
    /// Where the mean of cases like these lies in 95 of 100: percentile bootstrap (Efron 1979); none below two cases.
    pub mean_ci95: Option<[f64; 2]>,
}

impl Aggregate {
    /// Of one score per case.
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
        let quartile = |share| quantile(&defined, share);
        Self {
            summary: Summary::of(scores),
            median: quartile(0.5),
            quartiles: quartile(0.25).zip(quartile(0.75)).map(|(q1, q3)| [q1, q3]),
            mean_ci95,
        }
    }
}

/// The value below which lies this `share` of sorted values, linearly between neighbours.
pub fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = share.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (
        sorted[place.floor() as usize],
        sorted[place.ceil() as usize],
    );
    Some(below + (above - below) * place.fract())
}

/// The 2.5th and 97.5th percentile of a figure of cases that are drawn with replacement, as many as there are. The
/// `figure` is told which cases were drawn; draws without one are left out.
pub fn bootstrap_ci95(cases: usize, figure: impl Fn(&[usize]) -> Option<f64>) -> Option<[f64; 2]> {
    if cases < 2 {
        return None;
    }
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let mut drawn = vec![0; cases];
    let mut figures: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            drawn.fill_with(|| random.random_range(0..cases));
            figure(&drawn)
        })
        .collect();
    figures.sort_by(f64::total_cmp);
    Some([quantile(&figures, 0.025)?, quantile(&figures, 0.975)?])
}
