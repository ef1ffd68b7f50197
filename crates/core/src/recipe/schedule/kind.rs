//! What a kind of schedule provides.

/// A kind of learning-rate schedule.
pub trait ScheduleKind {
    /// Whether `warmup_epochs` apply.
    const HAS_WARMUP: bool = false;

    /// The learning rate of the epoch after `epoch` epochs; `None` if it follows the validation instead.
    fn learning_rate(settings: &ScheduleSettings, epoch: usize) -> Option<f64>;
}

/// The settings that schedules use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScheduleSettings {
    /// The recipe's rate.
    pub learning_rate: f64,
    pub epochs: usize,
    /// Epochs of linear warm-up to `learning_rate` (PyTorch's `LinearLR` from
    /// 1 / (warm-up + 1)), before the schedule itself.
    pub warmup_epochs: usize,
}

impl ScheduleSettings {
    /// Warm-up, then `decay(done, epochs)` of the epochs after it.
    pub fn after_warmup(&self, epoch: usize, decay: impl Fn(usize, usize) -> f64) -> f64 {
        if epoch < self.warmup_epochs {
            return self.learning_rate * (epoch + 1) as f64 / (self.warmup_epochs + 1) as f64;
        }
        let epochs = self.epochs.saturating_sub(self.warmup_epochs).max(1);
        self.learning_rate * decay((epoch - self.warmup_epochs).min(epochs), epochs)
    }
}

/// Falls from 1 at 0 to 0 at 1.
pub fn half_cosine(share: f64) -> f64 {
    0.5 * (1.0 + (std::f64::consts::PI * share).cos())
}
