//! Chart axes: ranges and ticks.

use serde::Serialize;

use crate::pictures::chart::limits;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tick {
    /// Position from the start of the axis, in percent.
    pub at: f64,
    pub label: String,
}

/// A linear or logarithmic axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    low: f64,
    high: f64,
    is_log: bool,
}

/// Ratio of largest to smallest value above which an axis is logarithmic.
const LOG_FROM: f64 = 20.0;

impl Scale {
    /// A linear axis around the values, with limits at round numbers; 0 to 1 without values.
    pub fn around(values: impl Iterator<Item = f64>, steps: usize) -> Self {
        let (low, high) = limits(values).unwrap_or((0.0, 1.0));
        let step = step_of(high - low, steps).unwrap_or_else(|| step_at(high.abs().max(1.0)));
        let (low, high) = ((low / step).floor() * step, (high / step).ceil() * step);
        Self {
            low,
            high: if high > low { high } else { low + step },
            is_log: false,
        }
    }

    /// A linear axis for values between 0 and 1 with 1 best: starts at the multiple of 0.1 below the smallest value.
    pub fn of_shares(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = limits(values).unwrap_or((0.0, 1.0));
        Self {
            low: ((10.0 * low - 1e-9).floor() / 10.0).min(0.9),
            high: high.max(1.0),
            is_log: false,
        }
    }

    /// A linear axis with these limits.
    pub fn exactly(low: f64, high: f64) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        Self {
            low,
            high,
            is_log: false,
        }
    }

    /// Logarithmic if the values are all above 0 and span decades, otherwise linear.
    pub fn of_rates(values: impl Iterator<Item = f64> + Clone) -> Self {
        match limits(values.clone()) {
            Some((low, high)) if low > 0.0 && high / low > LOG_FROM => Self {
                low: 10f64.powf(low.log10().floor()),
                high: 10f64.powf(high.log10().ceil()),
                is_log: true,
            },
            _ => Self::around(values.chain([0.0]), 4),
        }
    }

    /// Position of a value: 0 at the start, 1 at the end.
    pub fn place(&self, value: f64) -> f64 {
        let place = match self.is_log {
            true => (value.log10() - self.low.log10()) / (self.high.log10() - self.low.log10()),
            false => (value - self.low) / (self.high - self.low),
        };
        if place.is_finite() { place } else { 0.0 }
    }

    /// [`Scale::place`] in percent, rounded to two decimals.
    pub fn percent(&self, value: f64) -> f64 {
        (1e4 * self.place(value)).round() / 100.0
    }

    /// About `steps` ticks at round numbers.
    pub fn ticks(&self, steps: usize) -> Vec<Tick> {
        if self.is_log {
            let decades = self.low.log10().round() as i32..=self.high.log10().round() as i32;
            return decades
                .map(|decade| self.tick(10f64.powi(decade), format!("1e{decade}")))
                .collect();
        }
        let Some(step) = step_of(self.high - self.low, steps) else {
            return Vec::new();
        };
        let decimals = (-step.log10().floor()).clamp(0.0, 8.0) as usize;
        let first = (self.low / step - 1e-6).ceil() as i64;
        let last = (self.high / step + 1e-6).floor() as i64;
        (first..=last)
            .map(|n| {
                // Adding zero turns -0 into 0.
                let value = n as f64 * step + 0.0;
                self.tick(value, format!("{value:.decimals$}"))
            })
            .collect()
    }

    fn tick(&self, value: f64, label: String) -> Tick {
        Tick {
            at: self.percent(value),
            label,
        }
    }
}

/// Step of 1, 2 or 5 times a power of ten, so that the range has about `steps` of them; `None` for an empty range.
fn step_of(range: f64, steps: usize) -> Option<f64> {
    let wanted = range / steps.max(1) as f64;
    if !(wanted.is_finite() && wanted > 0.0) {
        return None;
    }
    let power = step_at(wanted);
    let mut factors = [1.0, 2.0, 5.0, 10.0].into_iter();
    let factor = factors.find(|f| f * power >= wanted * 0.999)?;
    Some(factor * power)
}

/// The power of ten at or below a positive value.
fn step_at(value: f64) -> f64 {
    10f64.powf(value.log10().floor())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: Scale, steps: usize) -> Vec<String> {
        scale.ticks(steps).into_iter().map(|t| t.label).collect()
    }

    #[test]
    fn axes_have_round_ticks_around_the_values() {
        let scale = Scale::around([0.26, 0.9, f64::NAN].into_iter(), 4);
        assert_eq!(labels(scale, 4), ["0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!((scale.percent(0.2), scale.percent(1.0)), (0.0, 100.0));
        let shares = Scale::of_shares([0.34, 0.92].into_iter());
        assert_eq!(shares.percent(0.3), 0.0);
        assert_eq!(shares.percent(1.0), 100.0);
        assert_eq!(
            labels(Scale::exactly(1.0, 60.0), 6),
            ["10", "20", "30", "40", "50", "60"]
        );
        let distances = Scale::around([-3.0, 120.0].into_iter(), 5);
        assert_eq!(labels(distances, 5), ["-50", "0", "50", "100", "150"]);
    }

    #[test]
    fn rates_over_decades_are_logarithmic() {
        let scale = Scale::of_rates([1e-3, 2e-5].into_iter());
        assert_eq!(labels(scale, 4), ["1e-5", "1e-4", "1e-3"]);
        assert_eq!(scale.percent(1e-4), 50.0);
        assert!(!Scale::of_rates([1e-3, 1e-3].into_iter()).is_log);
    }

    #[test]
    fn one_value_or_none_still_gives_an_axis() {
        for values in [vec![], vec![0.0], vec![5.0, 5.0], vec![f64::INFINITY]] {
            let scale = Scale::around(values.iter().copied(), 4);
            assert!(scale.high > scale.low, "{values:?}");
            assert!(labels(scale, 4).len() >= 2, "{values:?}");
            assert!(Scale::of_shares(values.into_iter()).place(0.95).is_finite());
        }
    }
}
