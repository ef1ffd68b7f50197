//! Early stopping; `Progress::record_epoch` asks it after each validation.

use serde::{Deserialize, Serialize};

use crate::recipe::EarlyStoppingConfig;

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
