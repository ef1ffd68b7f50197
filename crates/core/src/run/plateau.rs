//! The learning rate of the plateau schedule.

use serde::{Deserialize, Serialize};

use crate::recipe::PlateauConfig;

/// PyTorch's `ReduceLROnPlateau(mode="max", threshold=1e-4, threshold_mode="rel")`: the rate is multiplied
/// by `factor` once more than `patience` epochs have passed without a better value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReduceOnPlateau {
    learning_rate: f64,
    best: f64,
    bad_epochs: usize,
}

impl ReduceOnPlateau {
    pub fn new(learning_rate: f64) -> Self {
        Self {
            learning_rate,
            best: -1.0,
            bad_epochs: 0,
        }
    }

    pub fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    /// Observes one epoch's value (higher is better).
    pub fn observe(&mut self, value: f64, config: &PlateauConfig) {
        if value > self.best + 1e-4 * self.best.abs() {
            self.best = value;
            self.bad_epochs = 0;
        } else {
            self.bad_epochs += 1;
        }
        if self.bad_epochs > config.patience {
            self.learning_rate *= config.factor;
            self.bad_epochs = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reduce_on_plateau_matches_pytorch() {
        // PyTorch 2.11: ReduceLROnPlateau(SGD(lr=1), mode="max", factor=0.5, patience=2), step(v) for
        // each value; its learning rates after each step:
        let values = [
            0.1, 0.2, 0.2, 0.2, 0.2, 0.3, 0.30001, 0.1, 0.1, 0.1, 0.1, 0.1,
        ];
        let rates = [
            1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125,
        ];
        let config = PlateauConfig {
            factor: 0.5,
            patience: 2,
        };
        let mut schedule = ReduceOnPlateau::new(1.0);
        for (value, rate) in values.into_iter().zip(rates) {
            schedule.observe(value, &config);
            assert_eq!(schedule.learning_rate(), rate);
        }
    }
}
