//! How the learning rate changes, when training stops, and which epoch's weights are kept.

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

    /// Forgets for how long nothing was gained.
    pub fn wait_anew(&mut self) {
        self.waited = 0;
    }
}

impl Default for EarlyStopping {
    fn default() -> Self {
        Self::new()
    }
}

/// The rate of one epoch of a schedule that follows the epochs alone; `first` is the recipe's rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Course {
    pub first: f64,
    pub epochs: usize,
    /// Epochs at the beginning over which the rate rises to `first` in equal steps (PyTorch's `LinearLR` from
    /// 1 / (warm-up + 1)); the course itself begins after them.
    pub warm_up: usize,
}

impl Course {
    /// What `falling` says of the epochs after the warm-up, from how many of how many are done.
    fn after_warm_up(&self, epoch: usize, falling: impl Fn(usize, usize) -> f64) -> f64 {
        if epoch < self.warm_up {
            return self.first * (epoch + 1) as f64 / (self.warm_up + 1) as f64;
        }
        let epochs = self.epochs.saturating_sub(self.warm_up).max(1);
        self.first * falling((epoch - self.warm_up).min(epochs), epochs)
    }

    /// Half a cosine down to a hundredth (Loshchilov and Hutter, "SGDR", ICLR 2017, one cycle).
    pub fn cosine(&self, epoch: usize) -> f64 {
        self.after_warm_up(epoch, |done, epochs| {
            0.01 + 0.99 * half_cosine(done as f64 / epochs as f64)
        })
    }

    /// nnU-Net's: what is left of the epochs to the power of 0.9.
    pub fn poly(&self, epoch: usize) -> f64 {
        self.after_warm_up(epoch, |done, epochs| {
            (1.0 - done as f64 / epochs as f64).powf(0.9)
        })
    }

    /// Up from a 25th to the rate over the first 30 % of the epochs, down to a 250 000th over the rest, along
    /// half cosines (Smith and Topin, "Super-Convergence", 2018; PyTorch's `OneCycleLR`, a step per epoch). Its
    /// rise is its warm-up.
    pub fn one_cycle(&self, epoch: usize) -> f64 {
        const START: f64 = 1.0 / 25.0;
        const END: f64 = START / 1e4;
        let last = self.epochs.max(2) as f64 - 1.0;
        let top = 0.3 * self.epochs as f64 - 1.0;
        let at = (epoch as f64).min(last);
        let between = |from: f64, to: f64, share: f64| to + (from - to) * half_cosine(share);
        self.first
            * if at <= top {
                between(START, 1.0, at / top.max(f64::MIN_POSITIVE))
            } else {
                between(1.0, END, (at - top) / (last - top))
            }
    }
}

/// From 1 at 0 down to 0 at 1.
fn half_cosine(share: f64) -> f64 {
    0.5 * (1.0 + (std::f64::consts::PI * share).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course(epochs: usize, warm_up: usize) -> Course {
        Course {
            first: 0.1,
            epochs,
            warm_up,
        }
    }

    #[test]
    fn cosine_falls_from_the_rate_to_a_hundredth_of_it() {
        let course = course(10, 0);
        assert_eq!(course.cosine(0), 0.1);
        assert!((course.cosine(5) - 0.1 * 0.505).abs() < 1e-12);
        assert!((course.cosine(10) - 0.001).abs() < 1e-12);
        assert!((1..10).all(|epoch| course.cosine(epoch) < course.cosine(epoch - 1)));
    }

    // PyTorch 2.11 with lr = 0.1, its rate before each epoch: PolynomialLR(total_iters=8, power=0.9),
    // SequentialLR([LinearLR(1/3, 1, 2), CosineAnnealingLR(6, 0.001)], [2]), OneCycleLR(0.1, total_steps=10).
    #[test]
    fn courses_are_pytorchs() {
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
            close(course(8, 0).poly(epoch), expected);
        }
        for (epoch, expected) in warm.into_iter().enumerate() {
            close(course(8, 2).cosine(epoch), expected);
        }
        for (epoch, expected) in cycle.into_iter().enumerate() {
            close(course(10, 0).one_cycle(epoch), expected);
        }
    }

    #[test]
    fn however_few_epochs_there_are_every_rate_is_one() {
        for epochs in 1..5 {
            for epoch in 0..=epochs {
                let course = course(epochs, epochs - 1);
                let rates = [
                    course.cosine(epoch),
                    course.poly(epoch),
                    course.one_cycle(epoch),
                ];
                assert!(
                    rates.iter().all(|rate| (0.0..=0.1 + 1e-12).contains(rate)),
                    "{rates:?}"
                );
            }
        }
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
