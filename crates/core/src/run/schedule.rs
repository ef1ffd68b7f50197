//! Learning-rate schedules and early stopping.

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

/// A learning-rate schedule that depends only on the epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LrSchedule {
    /// The recipe's rate.
    pub learning_rate: f64,
    pub epochs: usize,
    /// Epochs of linear warm-up to `learning_rate` (PyTorch's `LinearLR` from
    /// 1 / (warm-up + 1)), before the schedule itself.
    pub warmup_epochs: usize,
}

impl LrSchedule {
    /// Warm-up, then `decay(done, epochs)` of the epochs after it.
    fn after_warmup(&self, epoch: usize, decay: impl Fn(usize, usize) -> f64) -> f64 {
        if epoch < self.warmup_epochs {
            return self.learning_rate * (epoch + 1) as f64 / (self.warmup_epochs + 1) as f64;
        }
        let epochs = self.epochs.saturating_sub(self.warmup_epochs).max(1);
        self.learning_rate * decay((epoch - self.warmup_epochs).min(epochs), epochs)
    }

    /// Cosine annealing to 1 % of the rate (Loshchilov and Hutter, "SGDR", ICLR 2017, one cycle).
    pub fn cosine(&self, epoch: usize) -> f64 {
        self.after_warmup(epoch, |done, epochs| {
            0.01 + 0.99 * half_cosine(done as f64 / epochs as f64)
        })
    }

    /// nnU-Net's polynomial decay: the remaining share of the epochs, to the power 0.9.
    pub fn poly(&self, epoch: usize) -> f64 {
        self.after_warmup(epoch, |done, epochs| {
            (1.0 - done as f64 / epochs as f64).powf(0.9)
        })
    }

    /// One cycle along half cosines: up from 1/25 of the rate over the first 30 % of the epochs, then down to
    /// 1/250 000 (Smith and Topin, "Super-Convergence", 2018; PyTorch's `OneCycleLR`, one step per epoch).
    /// `warmup_epochs` is ignored.
    pub fn one_cycle(&self, epoch: usize) -> f64 {
        const START: f64 = 1.0 / 25.0;
        const END: f64 = START / 1e4;
        let last = self.epochs.max(2) as f64 - 1.0;
        let top = 0.3 * self.epochs as f64 - 1.0;
        let at = (epoch as f64).min(last);
        let between = |from: f64, to: f64, share: f64| to + (from - to) * half_cosine(share);
        self.learning_rate
            * if at <= top {
                between(START, 1.0, at / top.max(f64::MIN_POSITIVE))
            } else {
                between(1.0, END, (at - top) / (last - top))
            }
    }
}

/// Falls from 1 at 0 to 0 at 1.
fn half_cosine(share: f64) -> f64 {
    0.5 * (1.0 + (std::f64::consts::PI * share).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(epochs: usize, warmup_epochs: usize) -> LrSchedule {
        LrSchedule {
            learning_rate: 0.1,
            epochs,
            warmup_epochs,
        }
    }

    #[test]
    fn cosine_falls_to_one_percent() {
        let schedule = schedule(10, 0);
        assert_eq!(schedule.cosine(0), 0.1);
        assert!((schedule.cosine(5) - 0.1 * 0.505).abs() < 1e-12);
        assert!((schedule.cosine(10) - 0.001).abs() < 1e-12);
        assert!((1..10).all(|epoch| schedule.cosine(epoch) < schedule.cosine(epoch - 1)));
    }

    // PyTorch 2.11 with lr = 0.1, its rate before each epoch: PolynomialLR(total_iters=8, power=0.9),
    // SequentialLR([LinearLR(1/3, 1, 2), CosineAnnealingLR(6, 0.001)], [2]), OneCycleLR(0.1, total_steps=10).
    #[test]
    fn schedules_match_pytorch() {
        let poly = [
            0.1,
            0.088_676_235,
            0.077_188_951,
            0.065_507_649,
            0.053_588_673,
            0.041_364_534,
            0.028_717_459,
            0.015_389_305,
        ];
        let warm = [
            0.033_333_333,
            0.066_666_667,
            0.1,
            0.093_368_257,
            0.075_25,
            0.050_5,
            0.025_75,
            0.007_631_743,
        ];
        let cycle = [
            0.004,
            0.052,
            0.1,
            0.095_048_463,
            0.081_174_565,
            0.061_126_202,
            0.038_874_198,
            0.018_825_835,
            0.004_951_937,
            4e-7,
        ];
        let close = |found: f64, expected: f64| {
            assert!((found - expected).abs() < 2e-9, "{found} for {expected}");
        };
        for (epoch, expected) in poly.into_iter().enumerate() {
            close(schedule(8, 0).poly(epoch), expected);
        }
        for (epoch, expected) in warm.into_iter().enumerate() {
            close(schedule(8, 2).cosine(epoch), expected);
        }
        for (epoch, expected) in cycle.into_iter().enumerate() {
            close(schedule(10, 0).one_cycle(epoch), expected);
        }
    }

    #[test]
    fn rates_are_valid_for_few_epochs() {
        for epochs in 1..5 {
            for epoch in 0..=epochs {
                let schedule = schedule(epochs, epochs - 1);
                let rates = [
                    schedule.cosine(epoch),
                    schedule.poly(epoch),
                    schedule.one_cycle(epoch),
                ];
                assert!(
                    rates.iter().all(|rate| (0.0..=0.1 + 1e-12).contains(rate)),
                    "{rates:?}"
                );
            }
        }
    }

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
