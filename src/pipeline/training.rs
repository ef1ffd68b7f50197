//! The training loop of one network, top to bottom.

use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use super::checkpoint::{Checkpoint, CheckpointFolder, Ended, Progress};
use super::guard::{guarded, unless_stopped};
use super::observer::Observer;
use super::recipe::{Recipe, Schedule};
use super::sampling::{CaseSource, send_epoch};
use super::schedule::{EarlyStopping, ReduceOnPlateau, cosine};
use super::tracker::Tracker;
use super::validation::validate;
use crate::error::{Error, Result};
use crate::tensors::batch::Batch;
use crate::tensors::device::Compute;
use crate::tensors::learner::{Learner, LearnerSetup};
use crate::tensors::networks::Network;
use crate::tensors::weights::{NamedTensors, network_tensors, with_tensors};

/// Batches that are prepared ahead of the network.
const QUEUE: usize = 4;

/// Steps with a gradient that is not finite after which training gives up.
const TOLERATED_BAD_STEPS: usize = 20;

/// One network to train.
pub struct TrainingJob<'a> {
    pub source: &'a CaseSource<'a>,
    pub train: &'a [usize],
    pub validation: &'a [usize],
    pub checkpoints: CheckpointFolder,
    pub compute: &'a Compute,
    pub seed: u64,
    /// Training ends so that it is over by then.
    pub deadline: Option<Instant>,
    /// Set from outside to stop after the step under way.
    pub stop: &'a AtomicBool,
    /// Name in progress bars, such as `fold 0`.
    pub name: String,
}

/// A trained network: the weights of its best epoch.
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
    let recipe = job.source.recipe;
    let started = Instant::now();
    let (mut learner, mut progress) = begin(job)?;
    let seconds_before = progress.seconds;
    let mut bad_steps = 0;
    let mut slices_expected = 0; // known once an epoch is over
    let mut validation_time = first_validation_time(job, &learner)?;

    std::thread::scope(|scope| {
        let (to, batches) = sync_channel(QUEUE);
        if progress.ended.is_none() {
            let first = progress.epoch;
            scope.spawn(move || {
                let sent = guarded(|| {
                    Ok((first..recipe.training.epochs)
                        .all(|epoch| send_epoch(job.source, job.train, job.seed, epoch, &to)))
                });
                if let Err(error) = sent {
                    let _ = to.send(Err(error)); // the receiver may be gone, and with it who cares
                }
            });
        }
        while progress.ended.is_none() {
            let rate = match recipe.training.schedule {
                Schedule::Plateau => progress.plateau.learning_rate(),
                Schedule::Cosine => cosine(
                    recipe.training.optimiser.learning_rate,
                    progress.epoch,
                    recipe.training.epochs,
                ),
            };
            // Validation must be over by the deadline too.
            let until = job
                .deadline
                .map(|end| end.checked_sub(validation_time).unwrap_or(started));
            let epoch = Epoch {
                job,
                rate,
                until,
                slices_expected,
            };
            let outcome = epoch.run(
                &mut learner,
                &batches,
                progress.epoch,
                &mut bad_steps,
                observer,
            )?;
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

            progress.epoch += 1;
            progress.optimiser_steps = learner.state()?.1;
            progress
                .plateau
                .observe(validation.dice, &recipe.training.plateau);
            progress.seconds = seconds_before + started.elapsed().as_secs_f64();
            let is_best = progress.best.is_none_or(|(_, best)| validation.dice > best);
            if is_best {
                progress.best = Some((progress.epoch, validation.dice));
                progress.best_validation = Some(validation.clone());
            }
            let gained_nothing = progress
                .early_stopping
                .observe(validation.dice, &recipe.training.early_stopping);
            progress.ended = if progress.epoch >= recipe.training.epochs {
                Some(Ended::AllEpochsDone)
            } else if gained_nothing {
                Some(Ended::NothingGained)
            } else if outcome.out_of_time {
                Some(Ended::TimeIsUp)
            } else {
                None
            };
            let state = checkpoint(&learner, &progress)?;
            if is_best {
                job.checkpoints.save_best(&state)?;
            }
            job.checkpoints.save_last(&state)?;
            tracker.epoch(&job.name, &progress, outcome.mean_loss, rate, &validation)?;
            observer.say(&format!(
                "{}: epoch {:>3}/{}  loss {:.4}  validation Dice {:.4}{} IoU {:.4} loss {:.4}  rate {:.1e}  {:.0} slices/s ({:.0} % waiting for data)",
                job.name,
                progress.epoch,
                recipe.training.epochs,
                outcome.mean_loss,
                validation.dice,
                if is_best { " (best)" } else { "" },
                validation.iou,
                validation.loss.unwrap_or(f64::NAN),
                rate,
                outcome.slices_per_second,
                100.0 * outcome.waited_share,
            ));
        }
        drop(batches); // lets the loader end
        Ok(())
    })?;

    let best = Checkpoint::load(&job.checkpoints.best())?;
    Ok(Trained {
        weights: best.network,
        progress,
    })
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
fn begin(job: &TrainingJob) -> Result<(Learner, Progress)> {
    let recipe = job.source.recipe;
    let training = &recipe.training;
    let fresh = fresh_network(recipe, job.source.outputs(), job.compute, job.seed)?;
    let setup = LearnerSetup {
        loss: training.loss,
        optimiser: training.optimiser.clone(),
        recompute: training.recompute,
        micro_batches: training.micro_batches,
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
            let progress = Progress {
                epoch: 0,
                optimiser_steps: 0,
                plateau: ReduceOnPlateau::new(training.optimiser.learning_rate),
                early_stopping: EarlyStopping::new(),
                best: None,
                best_validation: None,
                seconds: 0.0,
                ended: None,
            };
            let learner = Learner::new(fresh, setup, job.compute)?;
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

/// One pass over the training slices.
struct Epoch<'a> {
    job: &'a TrainingJob<'a>,
    rate: f64,
    until: Option<Instant>,
    /// Slices of the epoch, 0 if not known.
    slices_expected: u64,
}

struct EpochOutcome {
    mean_loss: f64,
    slices: u64,
    slices_per_second: f64,
    /// Part of the time that the network waited for batches.
    waited_share: f64,
    out_of_time: bool,
}

impl Epoch<'_> {
    fn run(
        &self,
        learner: &mut Learner,
        batches: &Receiver<Result<Option<Batch>>>,
        epoch: usize,
        bad_steps: &mut usize,
        observer: &dyn Observer,
    ) -> Result<EpochOutcome> {
        let task = observer.task(
            &format!("{} epoch {}", self.job.name, epoch + 1),
            self.slices_expected,
            "slices",
        );
        let started = Instant::now();
        let (mut losses, mut steps, mut slices, mut step) = (0.0, 0u32, 0u64, 0u64);
        let mut out_of_time = false;
        let mut waited = Duration::ZERO;
        loop {
            let begun = Instant::now();
            let Some(batch) = next(batches)? else {
                break;
            };
            waited += begun.elapsed();
            let count = batch.input_shape[0];
            // Dropout's draws depend on seed, epoch and step alone, so that a resumed run repeats them.
            let seed = self.job.seed.wrapping_add((epoch as u64 + 1) << 32);
            let report = learner.step(batch, self.rate, seed.wrapping_add(step))?;
            step += 1;
            if let Some(note) = &report.note {
                observer.warn(&format!("{}: {note}", self.job.name));
            }
            if report.is_taken() {
                losses += report.loss;
                steps += 1;
                *bad_steps = 0;
            } else {
                *bad_steps += 1;
            }
            if *bad_steps > TOLERATED_BAD_STEPS {
                return Err(Error::invalid(format!(
                    "{}: the gradient has not been finite for {bad_steps} steps; lower training.optimiser.learning_rate",
                    self.job.name
                )));
            }
            slices += count as u64;
            task.advance(count as u64);
            task.note(&format!("loss {:.4}", mean(losses, steps)));
            unless_stopped(self.job.stop, || {
                format!(
                    "{} stands at epoch {epoch} in {}",
                    self.job.name,
                    self.job.checkpoints.last().display()
                )
            })?;
            out_of_time = self.until.is_some_and(|end| Instant::now() >= end);
            if out_of_time {
                break;
            }
        }
        Ok(EpochOutcome {
            mean_loss: mean(losses, steps),
            slices,
            slices_per_second: slices as f64 / started.elapsed().as_secs_f64(),
            waited_share: waited.as_secs_f64() / started.elapsed().as_secs_f64(),
            out_of_time,
        })
    }
}

/// The mean loss, NaN where no step was finite.
fn mean(sum: f64, steps: u32) -> f64 {
    if steps > 0 {
        sum / f64::from(steps)
    } else {
        f64::NAN
    }
}

/// The next batch; `None` at the end of the epoch.
fn next(batches: &Receiver<Result<Option<Batch>>>) -> Result<Option<Batch>> {
    batches.recv().unwrap_or_else(|_| {
        Err(Error::invalid(
            "internal: the thread that prepares batches ended early",
        ))
    })
}
