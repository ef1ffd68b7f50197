//! The training loop of one network, top to bottom.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::checkpoint::{Checkpoint, Ended, Progress};
use super::cycle::{Clock, Expected, OneEpoch, checkpoint};
use super::guard::guarded;
use super::observer::Observer;
use super::sampling::send_share;
use super::schedule::Keep;
use super::tracker::Tracker;
use super::training_job::{Trained, TrainingJob};
use super::validation::validated;
use crate::error::{Error, Result};
use crate::tensors::batch::Batch;
use crate::tensors::learner::{Learner, LearnerSetup};
use crate::tensors::networks::Network;
use crate::tensors::weights::{NamedTensors, network_tensors, with_tensors};

/// Batches that are prepared ahead of the network.
const QUEUE: usize = 4;

/// Trains from the last checkpoint, if there is one, until the epochs are done, nothing is gained any
/// more, or time is up. A checkpoint is there from before the first step on, and anew after every epoch, every
/// so many minutes, and when the training is stopped: going on from any of them gives the same weights.
///
/// # Errors
/// [`Error::Interrupted`] when stopped from outside; unreadable cases; weights that do not stay finite.
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
            scope.spawn(move || prepare_batches(job, first, shown, &to));
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

/// Sends the batches of all epochs from `first` on, of that one all but the first `shown`, until nobody listens
/// any more.
fn prepare_batches(
    job: &TrainingJob,
    first: usize,
    shown: u64,
    to: &SyncSender<Result<Option<Batch>>>,
) {
    let epochs = first..job.source.recipe.training.epochs;
    let send = || {
        let mut epochs = epochs;
        epochs.all(|epoch| {
            let shown = if epoch == first { shown } else { 0 };
            let drawn_by = (job.seed, epoch);
            send_share(job.source, job.train, drawn_by, shown, &job.team, to)
        })
    };
    let sent = guarded(|| match job.loader_threads {
        Some(threads) => Ok(loader_pool(threads)?.install(send)),
        None => Ok(send()),
    });
    if let Err(error) = sent {
        let _ = to.send(Err(error)); // the receiver may be gone, and with it who cares
    }
}

fn loader_pool(threads: usize) -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("loader {index}"))
        .build()
        .map_err(|error| {
            Error::invalid(format!(
                "--loader-threads {threads}: the system gives no such threads ({error}); ask for fewer"
            ))
        })
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

/// What all processes begin with is what the first one has.
fn begun_together(
    job: &TrainingJob,
    observer: &dyn Observer,
) -> Result<(Box<dyn Learner>, Progress)> {
    if job.team.is_alone() {
        return begin(job, observer);
    }
    let begun = job.team.leads().then(|| begin(job, observer)).transpose();
    let told = job.team.together(begun.and_then(|begun| match &begun {
        Some((learner, progress)) => {
            let bytes = checkpoint(learner.as_ref(), progress)?.to_bytes()?;
            Ok((begun, bytes))
        }
        None => Ok((None, Vec::new())),
    }))?;
    let (begun, bytes) = told;
    let bytes = job.team.told(bytes)?;
    let own = match begun {
        Some(begun) => Ok(begun),
        None => Checkpoint::from_bytes(&bytes)
            .and_then(|told| Ok((restored(job, &told)?, told.progress))),
    };
    job.team.together(own)
}

/// Fresh weights, or everything as the last checkpoint left it.
fn begin(job: &TrainingJob, observer: &dyn Observer) -> Result<(Box<dyn Learner>, Progress)> {
    let training = &job.source.recipe.training;
    job.checkpoints.forget_stopped()?;
    let warn = |line: &str| observer.warn(&format!("{}: {line}", job.name));
    if let Some(mut saved) = job.checkpoints.load_last(&warn)? {
        if saved.progress.ended == Some(Ended::TimeIsUp) {
            saved.progress.ended = None; // whoever resumes has time again
        }
        if saved.progress.ended.is_none() {
            let place = saved.progress.place();
            observer.say(&format!("{}: goes on from {place}", job.name));
        }
        return Ok((restored(job, &saved)?, saved.progress));
    }
    let progress = Progress::new(training.optimiser.learning_rate);
    let fresh = fresh_network(job)?;
    let network = match &job.beginning {
        Some((beginning, index)) => {
            let taken = beginning.taken_over(*index, network_tensors(&fresh)?)?;
            taken.refuse_frozen_anew(training.freeze_encoder_levels)?;
            observer.say(&format!("{}: {}", job.name, taken.described()));
            with_tensors(fresh, &taken.weights, &job.compute.device)?
        }
        None => fresh,
    };
    let learner = job.compute.learner(network, setup(job, 0)?)?;
    job.checkpoints
        .save_last(&checkpoint(learner.as_ref(), &progress)?)?;
    Ok((learner, progress))
}

/// How the network learns in the epoch after `epochs` epochs.
fn setup(job: &TrainingJob, epochs: usize) -> Result<LearnerSetup> {
    let training = &job.source.recipe.training;
    Ok(LearnerSetup {
        loss: job.source.loss()?,
        optimiser: training.optimiser.clone(),
        recompute: training.recompute,
        micro_batches: training.micro_batches,
        weight_average: training.weight_average,
        frozen_levels: training.frozen_levels(epochs),
        sync_norms: training.sync_norms,
        team: Arc::clone(&job.team),
    })
}

/// The learner that a checkpoint tells of.
fn restored(job: &TrainingJob, saved: &Checkpoint) -> Result<Box<dyn Learner>> {
    let network = with_tensors(fresh_network(job)?, &saved.network, &job.compute.device)?;
    let setup = setup(job, saved.progress.epoch)?;
    let steps = saved.progress.optimiser_steps;
    job.compute
        .restored_learner(network, setup, &saved.optimiser, steps)
}

/// Makes levels that were frozen learn from the next epoch on, where the recipe says so.
fn thaw(
    job: &TrainingJob,
    learner: &mut Box<dyn Learner>,
    progress: &Progress,
    observer: &dyn Observer,
) -> Result<()> {
    let training = &job.source.recipe.training;
    if training.unfreeze_epoch != Some(progress.epoch) || progress.within.is_some() {
        return Ok(());
    }
    observer.say(&format!(
        "{}: from here on all levels of the encoder learn",
        job.name
    ));
    *learner = restored(job, &checkpoint(learner.as_ref(), progress)?)?;
    Ok(())
}

/// A network whose weights follow from the seed.
fn fresh_network(job: &TrainingJob) -> Result<Network> {
    let device = &job.compute.device;
    device.seed(job.seed);
    let recipe = job.source.recipe;
    let network = recipe
        .network
        .init(recipe.channels(), job.source.outputs(), device)?;
    // Burn draws weights when they are first used; they are drawn here, in the order of their names.
    network_tensors(&network)?;
    Ok(network)
}
