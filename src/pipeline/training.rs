//! The training loop of one network, top to bottom.

use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::checkpoint::{Checkpoint, CheckpointFolder, Ended, Progress};
use super::epoch::{Epoch, EpochOutcome};
use super::fine_tuning::Beginning;
use super::guard::guarded;
use super::observer::Observer;
use super::recipe::Recipe;
use super::sampling::{CaseSource, send_epoch};
use super::schedule::Keep;
use super::tracker::Tracker;
use super::validation::{Validation, validate};
use crate::error::{Error, Result};
use crate::tensors::batch::Batch;
use crate::tensors::device::Compute;
use crate::tensors::learner::{Learner, LearnerSetup};
use crate::tensors::networks::Network;
use crate::tensors::weights::{NamedTensors, network_tensors, with_tensors};

/// Batches that are prepared ahead of the network.
const QUEUE: usize = 4;

/// One network to train.
pub struct TrainingJob<'a> {
    pub source: &'a CaseSource<'a>,
    pub train: &'a [usize],
    pub validation: &'a [usize],
    pub checkpoints: CheckpointFolder,
    /// Weights to begin with, and the position of this network among those that are trained.
    pub beginning: Option<(&'a Beginning, usize)>,
    pub compute: &'a Compute,
    pub seed: u64,
    /// Training ends so that it is over by then.
    pub deadline: Option<Instant>,
    /// Set from outside to stop after the step under way.
    pub stop: &'a AtomicBool,
    /// Threads that batches are prepared on, apart from those that compute; shared with them where nothing is
    /// said. Changes no batch.
    pub loader_threads: Option<usize>,
    /// Name in progress bars, such as `fold 0`.
    pub name: String,
}

/// A trained network: the weights of the epoch that the recipe keeps, averaged where it says so.
pub struct Trained {
    pub weights: NamedTensors,
    pub progress: Progress,
}

/// Trains from the last checkpoint, if there is one, until the epochs are done, nothing is gained any
/// more, or time is up. A checkpoint is there from before the first step on, and anew after every epoch.
///
/// # Errors
/// [`Error::Interrupted`] when stopped from outside; unreadable cases; weights that do not stay finite.
pub fn train(
    job: &TrainingJob,
    observer: &dyn Observer,
    tracker: &mut dyn Tracker,
) -> Result<Trained> {
    let training = &job.source.recipe.training;
    let started = Instant::now();
    let (mut learner, mut progress) = begin(job, observer)?;
    let seconds_before = progress.seconds;
    let mut bad_steps = 0;
    let mut slices_expected = 0; // known once an epoch is over
    let mut validation_time = first_validation_time(job, &learner)?;

    std::thread::scope(|scope| {
        let (to, batches) = sync_channel(QUEUE);
        if progress.ended.is_none() {
            let first = progress.epoch;
            scope.spawn(move || prepare_batches(job, first, &to));
        }
        while progress.ended.is_none() {
            let epoch = Epoch {
                job,
                number: progress.epoch,
                rate: progress.learning_rate(training),
                // Validation must be over by the deadline too.
                until: job
                    .deadline
                    .map(|end| end.checked_sub(validation_time).unwrap_or(started)),
                slices_expected,
            };
            let outcome = epoch.run(&mut learner, &batches, &mut bad_steps, observer)?;
            slices_expected = outcome.slices;

            let begun = Instant::now();
            let validation = validate(
                job.source,
                learner.network()?,
                job.validation,
                job.compute,
                job.stop,
            )?;
            validation_time = begun.elapsed();

            progress.optimiser_steps = learner.steps();
            progress.seconds = seconds_before + started.elapsed().as_secs_f64();
            let is_best = progress.take_in(&validation, training, outcome.out_of_time);
            let state = checkpoint(&learner, &progress)?;
            if is_best {
                job.checkpoints.save_best(&in_use(&learner, &progress)?)?;
            }
            job.checkpoints.save_last(&state)?;
            tracker.epoch(
                &job.name,
                &progress,
                outcome.mean_loss,
                epoch.rate,
                &validation,
            )?;
            observer.say(&epoch_line(&epoch, &outcome, &validation, is_best));
        }
        drop(batches); // lets the loader end
        Ok(())
    })?;

    kept(job, &learner, progress)
}

/// What a training that is over hands on.
fn kept(job: &TrainingJob, learner: &Learner, mut progress: Progress) -> Result<Trained> {
    let weights = match job.source.recipe.training.keep {
        Keep::Best => Checkpoint::load(&job.checkpoints.best())?.network,
        Keep::Last => {
            if progress.last_validation.is_none() {
                // The training ended when this was not yet written down.
                let network = learner.network()?;
                let again = validate(job.source, network, job.validation, job.compute, job.stop)?;
                progress.last_validation = Some(again);
            }
            learner.averaged_weights()?
        }
    };
    Ok(Trained { weights, progress })
}

/// Sends the batches of all epochs from `first` on, until nobody listens any more.
fn prepare_batches(job: &TrainingJob, first: usize, to: &SyncSender<Result<Option<Batch>>>) {
    let epochs = first..job.source.recipe.training.epochs;
    let send = || {
        let mut epochs = epochs;
        epochs.all(|epoch| send_epoch(job.source, job.train, job.seed, epoch, to))
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

/// What is said of an epoch that is over.
fn epoch_line(
    epoch: &Epoch,
    outcome: &EpochOutcome,
    validation: &Validation,
    is_best: bool,
) -> String {
    format!(
        "{}: epoch {:>3}/{}  loss {:.4}  validation Dice {:.4}{} IoU {:.4} loss {:.4}  rate {:.1e}  {:.0} {}/s ({:.0} % waiting for data)",
        epoch.job.name,
        epoch.number + 1,
        epoch.job.source.recipe.training.epochs,
        outcome.mean_loss,
        validation.dice,
        if is_best { " (best)" } else { "" },
        validation.iou,
        validation.loss.unwrap_or(f64::NAN),
        epoch.rate,
        outcome.slices_per_second,
        epoch.job.source.recipe.unit(),
        100.0 * outcome.waited_share,
    )
}

/// How long validation will take, where there is a deadline to keep: one case's time for all of them.
fn first_validation_time(job: &TrainingJob, learner: &Learner) -> Result<Duration> {
    let (Some(_), Some(first)) = (job.deadline, job.validation.first()) else {
        return Ok(Duration::ZERO);
    };
    let begun = Instant::now();
    validate(
        job.source,
        learner.network()?,
        &[*first],
        job.compute,
        job.stop,
    )?;
    Ok(begun.elapsed() * job.validation.len() as u32)
}

/// Fresh weights, or everything as the last checkpoint left it.
fn begin(job: &TrainingJob, observer: &dyn Observer) -> Result<(Learner, Progress)> {
    let recipe = job.source.recipe;
    let training = &recipe.training;
    let fresh = fresh_network(recipe, job.source.outputs(), job.compute, job.seed)?;
    let setup = LearnerSetup {
        loss: job.source.loss()?,
        optimiser: training.optimiser.clone(),
        recompute: training.recompute,
        micro_batches: training.micro_batches,
        weight_average: training.weight_average,
    };
    match job.checkpoints.load_last()? {
        Some(mut saved) => {
            if saved.progress.ended == Some(Ended::TimeIsUp) {
                saved.progress.ended = None; // whoever resumes has time again
            }
            let network = with_tensors(fresh, &saved.network, &job.compute.device)?;
            let steps = saved.progress.optimiser_steps;
            let learner = Learner::restored(network, setup, job.compute, &saved.optimiser, steps)?;
            Ok((learner, saved.progress))
        }
        None => {
            let progress = Progress::new(training.optimiser.learning_rate);
            let network = match &job.beginning {
                Some((beginning, index)) => {
                    let taken = beginning.taken_over(*index, network_tensors(&fresh)?)?;
                    observer.say(&format!("{}: {}", job.name, taken.described()));
                    with_tensors(fresh, &taken.weights, &job.compute.device)?
                }
                None => fresh,
            };
            let learner = Learner::new(network, setup, job.compute)?;
            job.checkpoints
                .save_last(&checkpoint(&learner, &progress)?)?;
            Ok((learner, progress))
        }
    }
}

/// A network whose weights follow from the seed.
fn fresh_network(recipe: &Recipe, outputs: usize, compute: &Compute, seed: u64) -> Result<Network> {
    compute.device.seed(seed);
    let network = recipe
        .network
        .init(recipe.channels(), outputs, &compute.device)?;
    // Burn draws weights when they are first used; they are drawn here, in the order of their names.
    network_tensors(&network)?;
    Ok(network)
}

/// What was validated, without what only training needs.
fn in_use(learner: &Learner, progress: &Progress) -> Result<Checkpoint> {
    Ok(Checkpoint {
        network: learner.averaged_weights()?,
        optimiser: NamedTensors::new(),
        progress: progress.clone(),
    })
}

/// Everything that training goes on from.
fn checkpoint(learner: &Learner, progress: &Progress) -> Result<Checkpoint> {
    let (state, _) = learner.state()?;
    let weights = learner.weights()?;
    if let Some((name, _)) = weights
        .iter()
        .find(|(_, t)| t.values.iter().any(|v| !v.is_finite()))
    {
        return Err(Error::invalid(format!(
            "training failed: {name} is no longer finite; lower training.optimiser.learning_rate and resume"
        )));
    }
    Ok(Checkpoint {
        network: weights,
        optimiser: state,
        progress: progress.clone(),
    })
}
