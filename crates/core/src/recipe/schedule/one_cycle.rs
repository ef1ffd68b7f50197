//! One cycle.

use super::kind::{ScheduleKind, ScheduleSettings, half_cosine};

/// Along half cosines: up from 1/25 of the rate over the first 30 % of the epochs, then down to 1/250 000 (Smith and
/// Topin, "Super-Convergence", 2018; PyTorch's `OneCycleLR`, one step per epoch).
pub struct OneCycle;

impl ScheduleKind for OneCycle {
    fn learning_rate(settings: &ScheduleSettings, epoch: usize) -> Option<f64> {
        const START: f64 = 1.0 / 25.0;
        const END: f64 = START / 1e4;
        let last = settings.epochs.max(2) as f64 - 1.0;
        let top = 0.3 * settings.epochs as f64 - 1.0;
        let at = (epoch as f64).min(last);
        let between = |from: f64, to: f64, share: f64| to + (from - to) * half_cosine(share);
        let share = if at <= top {
            between(START, 1.0, at / top.max(f64::MIN_POSITIVE))
        } else {
            between(1.0, END, (at - top) / (last - top))
        };
        Some(settings.learning_rate * share)
    }
}
