//! Reduce on plateau.

use super::kind::{ScheduleKind, ScheduleSettings};

/// See [`PlateauConfig`](crate::recipe::PlateauConfig).
pub struct Plateau;

impl ScheduleKind for Plateau {
    fn learning_rate(_: &ScheduleSettings, _: usize) -> Option<f64> {
        None
    }
}
