//! Where the numbers of a run are recorded. The run folder is the one that always is; others join it.

use super::checkpoint::Progress;
use super::validation::Validation;
use crate::error::Result;

/// Receives a run's numbers as they come.
pub trait Tracker {
    /// One epoch of the network called `name` is done, trained at `learning_rate` with `mean_loss`.
    fn epoch(
        &mut self,
        name: &str,
        progress: &Progress,
        mean_loss: f64,
        learning_rate: f64,
        validation: &Validation,
    ) -> Result<()>;
}
