//! The training loop of one network.

mod case_loss;
pub mod case_score;
pub mod job;
mod live_table;
mod loader;
mod run_epoch;
pub(crate) mod snapshot;
mod start;
mod step_log;
mod training_pass;
pub mod validation;

use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use ctseg_base::Result;
use ctseg_base::limits::spawn::spawn_scoped;
use ctseg_base::progress::Observer;
use ctseg_core::recipe::keep::Keep;
use ctseg_core::run::checkpoint::{Checkpoint, Progress};
use ctseg_core::run::tracker::Tracker;
use ctseg_engine::learner::Learner;
use ctseg_engine::weights::NamedTensors;

use job::{Trained, TrainingJob};
use loader::prepare_batches;
use run_epoch::{Clock, EpochRunner, Expected};
use start::{start_all_ranks, unfreeze};
use validation::validate;

/// Number of batches prepared ahead of the network.
const QUEUE: usize = 4;

/// Trains from the last checkpoint, if there is one, until all epochs are done, early stopping ends it, or time is up.
/// Checkpoints are written before the first step, after every epoch, every `training.checkpoint_minutes`, and when the
/// training is stopped. Resuming from any of them gives the same weights.
///
/// # Errors
/// [`ctseg_base::Error::Interrupted`] when stopped; unreadable cases; weights that are not finite; no thread for the
/// data loader.
pub fn train(job: &TrainingJob, observer: &dyn Observer, tracker: &dyn Tracker) -> Result<Trained> {
    let started = Instant::now();
    let (mut learner, mut progress) = start_all_ranks(job, observer)?;
    let clock = Clock {
        started,
        seconds_before: progress.seconds,
    };
    let mut stopped = None;
    let mut expected = Expected {
        slices: 0, // known after the first epoch
        validation: first_validation_time(job, learner.as_ref())?,
    };
    let trained = std::thread::scope(|scope| {
        let (to, batches) = sync_channel(QUEUE);
        if progress.ended.is_none() {
            let first = progress.epoch;
            let skip = progress.within.as_ref().map_or(0, |within| within.batches);
            spawn_scoped(scope, "loader", move || {
                prepare_batches(job, first, skip, &to)
            })?;
        }
        let pauses = |progress: &Progress| job.pause_after.is_some_and(|n| progress.epoch >= n);
        while progress.ended.is_none() && stopped.is_none() && !pauses(&progress) {
            unfreeze(job, &mut learner, &progress, observer)?;
            let runner = EpochRunner {
                job,
                clock: &clock,
                observer,
                tracker,
            };
            stopped = runner.run(learner.as_mut(), &mut progress, &batches, &mut expected)?;
        }
        drop(batches); // ends the loader thread
        Ok(())
    });
    observer.set_live_table("");
    trained?;

    finish(job, learner.as_ref(), progress, stopped)
}

/// The result of a training that has ended: the state after its last epoch, or the one `stopped` within an epoch.
fn finish(
    job: &TrainingJob,
    learner: &dyn Learner,
    progress: Progress,
    stopped: Option<Progress>,
) -> Result<Trained> {
    let within = stopped.is_some();
    let mut progress = stopped.unwrap_or(progress);
    let keep = job.source.recipe.training.keep;
    if keep == Keep::Last && progress.last_validation.is_none() {
        // The checkpoint is of a version that did not record it.
        progress.last_validation = Some(validate(job, learner, job.validation)?);
    }
    if !job.group.is_rank_zero() {
        // Only rank 0 returns the weights.
        let weights = NamedTensors::new();
        return Ok(Trained { weights, progress });
    }
    let weights = match keep {
        Keep::Best => {
            let best_is_last = progress
                .best
                .is_some_and(|(best, _)| best == progress.epoch);
            let path = match within && best_is_last {
                true => job.checkpoints.stopped(),
                false => job.checkpoints.best(),
            };
            Checkpoint::load(&path)?.network
        }
        Keep::Last => learner.averaged_weights()?,
    };
    Ok(Trained { weights, progress })
}

/// Estimated validation time if there is a deadline: the time of one case multiplied by the number of cases.
fn first_validation_time(job: &TrainingJob, learner: &dyn Learner) -> Result<Duration> {
    let (Some(_), Some(first)) = (job.deadline, job.validation.first()) else {
        return Ok(Duration::ZERO);
    };
    let started = Instant::now();
    validate(job, learner, &[*first])?;
    Ok(started.elapsed() * job.validation.len() as u32)
}
