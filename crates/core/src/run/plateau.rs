//! What follows the validation: the learning rate of the plateau schedule, and early stopping.

use serde::{Deserialize, Serialize};

use crate::recipe::{EarlyStoppingConfig, PlateauConfig};

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

/// Detects that the validation value has stopped improving.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EarlyStopping {
    best: f64,
    waited: usize,
}

impl EarlyStopping {
    pub fn new() -> Self {
        Self {
            best: -1.0,
            waited: 0,
        }
    }

    /// Observes one epoch's value; returns true if training should stop.
    pub fn observe(&mut self, value: f64, config: &EarlyStoppingConfig) -> bool {
        if value > self.best + config.smallest_gain {
            self.best = value;
            self.waited = 0;
        } else {
            self.waited += 1;
        }
        self.waited >= config.patience
    }

    /// Resets the count of epochs without improvement.
    pub fn reset_patience(&mut self) {
        self.waited = 0;
    }
}

impl Default for EarlyStopping {
    fn default() -> Self {
        Self::new()
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

    #[test]
    fn training_stops_after_patience_without_gain() {
        let config = EarlyStoppingConfig {
            patience: 2,
            smallest_gain: 0.01,
        };
        let mut stopping = EarlyStopping::new();
        let stops: Vec<bool> = [0.5, 0.505, 0.52, 0.52, 0.525]
            .iter()
            .map(|v| stopping.observe(*v, &config))
            .collect();
        assert_eq!(stops, [false, false, false, false, true]);
    }
}
