//! The values of all metrics of one structure in one case.

use crate::metrics::{METRICS, Metric, StructurePair};

/// One structure of one case.
#[derive(Debug, Clone)]
pub struct StructureScores {
    /// In the order of [`METRICS`]; NaN if undefined.
    values: Box<[f64]>,
}

impl StructureScores {
    pub fn of(pair: &StructurePair) -> Self {
        let values = METRICS.iter().map(|metric| (metric.measure)(pair));
        Self {
            values: values.map(|value| value.unwrap_or(f64::NAN)).collect(),
        }
    }

    /// In the order of [`METRICS`]; none if undefined.
    pub fn values(&self) -> impl Iterator<Item = Option<f64>> {
        let values = self.values.iter().copied();
        values.map(|value| (!value.is_nan()).then_some(value))
    }

    /// The value of the metric at this position in [`METRICS`]; none if undefined.
    pub fn value(&self, position: usize) -> Option<f64> {
        let value = self.values.get(position).copied();
        value.filter(|value| !value.is_nan())
    }
}

/// The position in [`METRICS`].
pub fn position(metric: &Metric) -> usize {
    let mut metrics = METRICS.iter();
    let found = metrics.position(|other| other.name == metric.name);
    found.unwrap_or(METRICS.len())
}
