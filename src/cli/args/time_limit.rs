//! Stopping before the time limit of a job.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;

use super::duration::parse_duration;
use crate::slurm::limit::{Left, left};
use ctseg_base::limits::spawn::spawn;
use ctseg_base::progress::Observer;
use ctseg_base::{Error, Result};

/// Options of commands that may exceed the time limit of their job.
#[derive(Args)]
pub struct LimitArgs {
    /// In a Slurm job, stop this long before the time limit, such as 5m (exit code 75)
    #[arg(long, env = "CTSEG_STOP_BEFORE_LIMIT", value_name = "TIME", value_parser = parse_duration)]
    stop_before_limit: Option<Duration>,
}

impl LimitArgs {
    /// Starts a thread that sets `stop` when the time has come.
    ///
    /// # Errors
    /// The time limit of the job does not exceed the margin, or no thread can be started.
    pub fn watch(&self, stop: &Arc<AtomicBool>, observer: &Arc<dyn Observer>) -> Result<()> {
        let Some(margin) = self.stop_before_limit else {
            return Ok(());
        };
        let (left, whole) = match left() {
            Left::Unlimited => return Ok(()),
            Left::Unknown => {
                observer.warn(&format!(
                    "--stop-before-limit {margin:?} has no effect: time limit unknown (not in SLURM_JOB_END_TIME, not \
                     from squeue)"
                ));
                return Ok(());
            }
            Left::Limited { left, whole } => (left, whole),
        };
        if whole.is_some_and(|whole| whole <= margin) {
            return Err(Error::usage(format!(
                "--stop-before-limit {margin:?}: the job's whole time limit is {:?}; request more time, or pass a shorter margin",
                whole.unwrap_or_default()
            )));
        }
        let (stop, observer) = (Arc::clone(stop), Arc::clone(observer));
        let wait = left.saturating_sub(margin);
        if wait.is_zero() {
            observer.info(&format!(
                "the job's time limit is in {left:?}; not starting"
            ));
            stop.store(true, Ordering::Relaxed);
            return Ok(());
        }
        let stops = move || {
            std::thread::sleep(wait);
            observer.info(&format!("the job's time limit is in {margin:?}; stopping"));
            stop.store(true, Ordering::Relaxed);
        };
        spawn("--stop-before-limit", stops).map(drop)
    }
}
