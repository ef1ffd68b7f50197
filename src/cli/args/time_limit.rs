//! Stopping by itself before a scheduler ends the job.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;

use super::duration::parse_duration;
use crate::slurm::limit::{Left, left};
use ctseg_base::limits::spawn::spawn;
use ctseg_base::progress::Observer;
use ctseg_base::{Error, Result};

/// What commands take that may be longer at work than their job has time.
#[derive(Args)]
pub struct LimitArgs {
    /// In a job of Slurm, stop so long before its time is up, such as 5m, as if asked to by a signal: exit code 75
    #[arg(long, env = "CTSEG_STOP_BEFORE_LIMIT", value_name = "TIME", value_parser = parse_duration)]
    stop_before_limit: Option<Duration>,
}

impl LimitArgs {
    /// Sets `stop` when it is time, from a thread of its own.
    ///
    /// # Errors
    /// The job's whole time is no longer than what is to be left of it; no thread can be started.
    pub fn watch(&self, stop: &Arc<AtomicBool>, observer: &Arc<dyn Observer>) -> Result<()> {
        let Some(margin) = self.stop_before_limit else {
            return Ok(());
        };
        let (left, whole) = match left() {
            Left::Unlimited => return Ok(()),
            Left::Unknown => {
                observer.warn(&format!(
                    "--stop-before-limit {margin:?}: no time limit is known here (neither SLURM_JOB_END_TIME nor squeue \
                     tells one); nothing is stopped for it"
                ));
                return Ok(());
            }
            Left::Limited { left, whole } => (left, whole),
        };
        if whole.is_some_and(|whole| whole <= margin) {
            return Err(Error::usage(format!(
                "--stop-before-limit {margin:?}: the job has no more than {:?} in all; give it more time, or name less",
                whole.unwrap_or_default()
            )));
        }
        let (stop, observer) = (Arc::clone(stop), Arc::clone(observer));
        let wait = left.saturating_sub(margin);
        if wait.is_zero() {
            observer.say(&format!(
                "the job's time is up in {left:?}; nothing is begun"
            ));
            stop.store(true, Ordering::Relaxed);
            return Ok(());
        }
        let stops = move || {
            std::thread::sleep(wait);
            observer.say(&format!("the job's time is up in {margin:?}; stopping"));
            stop.store(true, Ordering::Relaxed);
        };
        spawn("--stop-before-limit", stops).map(drop)
    }
}
