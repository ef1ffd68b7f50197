//! Rules that follow the validation Dice: when the learning rate falls, when training stops, and which epoch's
//! weights are kept.

use serde::{Deserialize, Serialize};

use super::recipe::{EarlyStoppingConfig, PlateauConfig};

/// Which epoch's weights go into the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// The one with the best validation Dice; the first of several.
    #[default]
    Best,
    /// The last one, whatever its validation Dice, as nnU-Net's final checkpoint.
    Last,
}

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

    /// Takes the value of one more epoch (higher is better).
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

/// Says when nothing has been gained for too long.
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

    /// Takes the value of one more epoch; true when training should stop.
    pub fn observe(&mut self, value: f64, config: &EarlyStoppingConfig) -> bool {
        if value > self.best + config.smallest_gain {
            self.best = value;
            self.waited = 0;
        } else {
            self.waited += 1;
        }
        self.waited >= config.patience
    }
}

impl Default for EarlyStopping {
    fn default() -> Self {
        Self::new()
    }
}

/// The learning rate of each epoch where it follows half a cosine from `first` down to a hundredth of it
/// (Loshchilov and Hutter, "SGDR", ICLR 2017, one cycle).
pub fn cosine(first: f64, epoch: usize, epochs: usize) -> f64 {
    let done = epoch.min(epochs) as f64 / epochs.max(1) as f64;
    let share = 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
    first * (0.01 + 0.99 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_falls_from_the_rate_to_a_hundredth_of_it() {
        assert_eq!(cosine(0.1, 0, 10), 0.1);
        assert!((cosine(0.1, 5, 10) - 0.1 * 0.505).abs() < 1e-12);
        assert!((cosine(0.1, 10, 10) - 0.001).abs() < 1e-12);
        assert!((1..10).all(|epoch| cosine(0.1, epoch, 10) < cosine(0.1, epoch - 1, 10)));
    }

    #[test]
    fn the_rate_falls_as_in_pytorch() {
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
