//! Polynomial decay.

use super::kind::{ScheduleKind, ScheduleSettings};

/// nnU-Net's: the remaining share of the epochs, to the power 0.9.
pub struct Poly;

impl ScheduleKind for Poly {
    const HAS_WARMUP: bool = true;

    fn learning_rate(settings: &ScheduleSettings, epoch: usize) -> Option<f64> {
        Some(settings.after_warmup(epoch, |done, epochs| {
            (1.0 - done as f64 / epochs as f64).powf(0.9)
        }))
    }
}
