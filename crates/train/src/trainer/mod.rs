//! The training loop of one network, top to bottom.

mod case_loss;
pub mod case_score;
mod cycle;
mod epoch;
pub mod job;
mod live_table;
mod loader;
pub(crate) mod snapshot;
mod start;
mod step_log;
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

use cycle::{Clock, Expected, OneEpoch};
use job::{Trained, TrainingJob};
use loader::prepare_batches;
use start::{begun_together, thaw};
use validation::validated;

/// Batches that are prepared ahead of the network.
const QUEUE: usize = 4;

/// Trains from the last checkpoint, if there is one, until the epochs are done, nothing is gained any
/// more, or time is up. A checkpoint is there from before the first step on, and anew after every epoch, every
/// so many minutes, and when the training is stopped: going on from any of them gives the same weights.
///
/// # Errors
/// [`ctseg_base::Error::Interrupted`] when stopped from outside; unreadable cases; weights that do not stay finite; no
/// thread to prepare batches on.
pub fn train(job: &TrainingJob, observer: &dyn Observer, tracker: &dyn Tracker) -> Result<Trained> {
    let started = Instant::now();
    let (mut learner, mut progress) = begun_together(job, observer)?;
    let clock = Clock {
        started,
        seconds_before: progress.seconds,
    };
    let mut stopped = None;
    let mut expected = Expected {
        slices: 0, // known once an epoch is over
        validation: first_validation_time(job, learner.as_ref())?,
    };
    let trained = std::thread::scope(|scope| {
        let (to, batches) = sync_channel(QUEUE);
        if progress.ended.is_none() {
            let first = progress.epoch;
            let shown = progress.within.as_ref().map_or(0, |within| within.batches);
            spawn_scoped(scope, "loader", move || {
                prepare_batches(job, first, shown, &to)
            })?;
        }
        let pauses = |progress: &Progress| job.pause_after.is_some_and(|n| progress.epoch >= n);
        while progress.ended.is_none() && stopped.is_none() && !pauses(&progress) {
            thaw(job, &mut learner, &progress, observer)?;
            let one = OneEpoch {
                job,
                clock: &clock,
                observer,
                tracker,
            };
            stopped = one.done(learner.as_mut(), &mut progress, &batches, &mut expected)?;
        }
        drop(batches); // lets the loader end
        Ok(())
    });
    observer.board("");
    trained?;

    kept(job, learner.as_ref(), progress, stopped)
}

/// What a training that is over hands on: the state after its last epoch, or what was `stopped` within it.
fn kept(
    job: &TrainingJob,
    learner: &dyn Learner,
    progress: Progress,
    stopped: Option<Progress>,
) -> Result<Trained> {
    let within = stopped.is_some();
    let mut progress = stopped.unwrap_or(progress);
    let keep = job.source.recipe.training.keep;
    if keep == Keep::Last && progress.last_validation.is_none() {
        // The training ended when this was not yet written down.
        progress.last_validation = Some(validated(job, learner, job.validation)?);
    }
    if !job.team.leads() {
        // The one that leads hands the weights on.
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

/// How long validation will take, where there is a deadline to keep: one case's time for all of them.
fn first_validation_time(job: &TrainingJob, learner: &dyn Learner) -> Result<Duration> {
    let (Some(_), Some(first)) = (job.deadline, job.validation.first()) else {
        return Ok(Duration::ZERO);
    };
    let begun = Instant::now();
    validated(job, learner, &[*first])?;
    Ok(begun.elapsed() * job.validation.len() as u32)
}
