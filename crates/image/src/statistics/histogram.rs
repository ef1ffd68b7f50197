//! A histogram with bins of width 1: exact percentiles of integer values in bounded memory.

/// Counts of rounded values in a range; values beyond it are counted in the first or last bin.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// The first bin's value.
    low: i32,
    counts: Vec<u64>,
    total: u64,
    sum: f64,
    squares: f64,
    range: Option<(f64, f64)>,
}

impl Histogram {
    /// A histogram for Hounsfield units, including metal: −4096 to 32,767.
    pub fn hounsfield() -> Self {
        const LOW: i32 = -4096;
        const HIGH: i32 = 32_767;
        Self {
            low: LOW,
            counts: vec![0; (HIGH - LOW + 1) as usize],
            total: 0,
            sum: 0.0,
            squares: 0.0,
            range: None,
        }
    }

    /// Adds a finite value, rounded to an integer.
    pub fn add(&mut self, value: f32) {
        let last = self.counts.len() as i64 - 1;
        let bin = (value.round() as i64 - i64::from(self.low)).clamp(0, last);
        self.counts[bin as usize] += 1;
        self.total += 1;
        let value = f64::from(value);
        self.sum += value;
        self.squares += value * value;
        let (low, high) = self.range.unwrap_or((value, value));
        self.range = Some((low.min(value), high.max(value)));
    }

    /// Adds the counts of `other`, which has the same range.
    pub fn merge(&mut self, other: &Self) {
        for (to, from) in self.counts.iter_mut().zip(&other.counts) {
            *to += from;
        }
        self.total += other.total;
        self.sum += other.sum;
        self.squares += other.squares;
        self.range = match (self.range, other.range) {
            (Some((low, high)), Some((a, b))) => Some((low.min(a), high.max(b))),
            (one, other) => one.or(other),
        };
    }

    /// The number of values.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// Mean and standard deviation (ddof = 0) of the unrounded values; `None` without values.
    pub fn mean_and_sd(&self) -> Option<(f64, f64)> {
        let count = self.total as f64;
        (self.total > 0).then(|| {
            let mean = self.sum / count;
            (mean, (self.squares / count - mean * mean).max(0.0).sqrt())
        })
    }

    /// Minimum and maximum; `None` without values.
    pub fn range(&self) -> Option<(f64, f64)> {
        self.range
    }

    /// Percentile with linear interpolation, as NumPy's `percentile`; `None` without values.
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        let last = self.total.checked_sub(1)?;
        let at = percent.clamp(0.0, 100.0) / 100.0 * last as f64;
        let low = at.floor() as u64;
        let (a, b) = (self.ranked(low)?, self.ranked((low + 1).min(last))?);
        Some(a + (at - low as f64) * (b - a))
    }

    /// The value with this rank (from 0) in ascending order.
    fn ranked(&self, rank: u64) -> Option<f64> {
        let mut below = 0;
        let bin = self.counts.iter().position(|count| {
            below += count;
            below > rank
        })?;
        Some(f64::from(self.low) + bin as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // NumPy 2.4: np.percentile([-1000, -5, 3, 3, 40, 41, 90, 2000], [0, 0.5, 25, 50, 99.5, 100]), mean, std.
    #[test]
    fn statistics_match_numpy() {
        let mut one = Histogram::hounsfield();
        let mut other = Histogram::hounsfield();
        [-1000.0, 3.0, 41.0, 90.0]
            .into_iter()
            .for_each(|v| one.add(v));
        [2000.0, 40.0, 3.0, -5.0]
            .into_iter()
            .for_each(|v| other.add(v));
        one.merge(&other);
        assert_eq!((one.count(), one.range()), (8, Some((-1000.0, 2000.0))));
        for (percent, expected) in [
            (0.0, -1000.0),
            (0.5, -965.175),
            (25.0, 1.0),
            (50.0, 21.5),
            (99.5, 1933.15),
            (100.0, 2000.0),
        ] {
            let found = one.percentile(percent).unwrap();
            assert!((found - expected).abs() < 1e-9, "{percent}: {found}");
        }
        let (mean, sd) = one.mean_and_sd().unwrap();
        assert!(
            (mean - 146.5).abs() < 1e-9 && (sd - 777.795_442_259_724_3).abs() < 1e-6,
            "{mean} {sd}"
        );
    }

    #[test]
    fn an_empty_histogram_has_no_statistics_and_extremes_stay_in_range() {
        let mut values = Histogram::hounsfield();
        assert_eq!(values.percentile(50.0), None);
        assert_eq!(values.mean_and_sd(), None);
        values.add(1e9);
        values.add(-1e9);
        assert_eq!(values.percentile(0.0), Some(-4096.0));
        assert_eq!(values.percentile(100.0), Some(32_767.0));
    }
}
