//! Cosine annealing.

use super::kind::{ScheduleKind, ScheduleSettings, half_cosine};

/// To 1 % of the rate (Loshchilov and Hutter, "SGDR", ICLR 2017, one cycle).
pub struct Cosine;

impl ScheduleKind for Cosine {
    const HAS_WARMUP: bool = true;

    fn learning_rate(settings: &ScheduleSettings, epoch: usize) -> Option<f64> {
        Some(settings.after_warmup(epoch, |done, epochs| {
            0.01 + 0.99 * half_cosine(done as f64 / epochs as f64)
        }))
    }
}
