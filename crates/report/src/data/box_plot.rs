//! Statistics of box plots.

use ctseg_core::dataset::fingerprint::percentile;

/// Maximum length of the whiskers as a multiple of the box length (Tukey, 1977); values beyond are outliers.
const WHISKERS: f64 = 1.5;

/// A box and its whiskers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoxPlotStats {
    /// Quartiles, by linear interpolation as in NumPy.
    pub q1: f64,
    pub median: f64,
    pub q3: f64,
    /// Smallest and largest values that are not outliers.
    pub low: f64,
    pub high: f64,
}

impl BoxPlotStats {
    /// Statistics of all finite values; `None` if there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
        if values.is_empty() {
            return None;
        }
        let [q1, median, q3] = [25.0, 50.0, 75.0].map(|at| percentile(values.iter().copied(), at));
        let reach = WHISKERS * (q3 - q1);
        let inside = values
            .iter()
            .filter(|v| (q1 - reach..=q3 + reach).contains(*v));
        let (low, high) = inside.fold((q1, q3), |(low, high), value| {
            (low.min(*value), high.max(*value))
        });
        Some(Self {
            q1,
            median,
            q3,
            low,
            high,
        })
    }

    /// Whether the value lies beyond the whiskers.
    pub fn is_outlier(&self, value: f64) -> bool {
        !(self.low..=self.high).contains(&value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_are_numpys_and_whiskers_tukeys() {
        // scripts/golden/make_boxplots.py
        let golden = include_str!("../../../../tests/golden/report/boxplots.json");
        let golden: serde_json::Value = serde_json::from_str(golden).unwrap();
        for sample in golden.as_array().unwrap() {
            let numbers = |key: &str| -> Vec<f64> {
                let all = sample[key].as_array().unwrap().iter();
                all.map(|v| v.as_f64().unwrap()).collect()
            };
            let values = numbers("values");
            let found = BoxPlotStats::of(values.iter().copied()).unwrap();
            for (key, value) in [
                ("q1", found.q1),
                ("median", found.median),
                ("q3", found.q3),
                ("low", found.low),
                ("high", found.high),
            ] {
                let expected = sample[key].as_f64().unwrap();
                assert!((value - expected).abs() < 1e-12, "{key} of {values:?}");
            }
            let mut outliers: Vec<f64> = values
                .into_iter()
                .filter(|value| found.is_outlier(*value))
                .collect();
            outliers.sort_by(f64::total_cmp);
            assert_eq!(outliers, numbers("outliers"));
        }
        assert_eq!(BoxPlotStats::of([f64::NAN]), None);
    }
}
