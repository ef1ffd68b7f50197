//! Trains one network, top to bottom: epochs, steps, validation, checkpoints, early stopping.

mod case_score;
pub mod job;
mod live_table;
mod loader;
mod start;
mod step_log;
mod validation;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ctseg_base::progress::Observer;
use ctseg_base::text::table::or_undefined;
use ctseg_base::{Error, Result};
use ctseg_core::recipe::Recipe;
use ctseg_core::recipe::keep::Keep;
use ctseg_core::run::checkpoint::{Checkpoint, Progress, StopReason};
use ctseg_core::run::tracker::{EpochRecord, Tracker};
use ctseg_core::run::validation::Validation;
use ctseg_engine::batch::Batch;
use ctseg_engine::learner::Learner;

use job::{Trained, TrainingJob};
use live_table::live_table;
use loader::Batches;
use start::{TrainingState, checkpoint, inference_checkpoint, restored, start};
use step_log::{Step, StepLog};
use validation::validate;

/// Number of consecutive steps with a non-finite gradient after which training fails.
const MAX_BAD_STEPS: usize = 20;

/// Trains from the last checkpoint, if there is one, until all epochs are done, early stopping ends it, or time is up.
/// Checkpoints are written before the first step, after every epoch, every `training.checkpoint_minutes`, and when the
/// training is stopped. Resuming from any of them gives the same weights.
///
/// # Errors
/// [`Error::Interrupted`] when stopped; unreadable cases; weights or too many gradients that are not finite; no thread
/// for the data loader.
pub fn train(job: &TrainingJob, observer: &dyn Observer, tracker: &dyn Tracker) -> Result<Trained> {
    let started = Instant::now();
    let TrainingState { learner, progress } = start(job, observer)?;
    let mut trainer = Trainer {
        job,
        observer,
        tracker,
        learner,
        started,
        seconds_before: progress.seconds,
        progress,
        epoch_slices: 0,
        validation_time: Duration::ZERO,
    };
    trainer.validation_time = trainer.first_validation_time()?;
    let trained = trainer.run_epochs();
    observer.set_live_table("");
    trained?;
    trainer.finish()
}

struct Trainer<'a> {
    job: &'a TrainingJob<'a>,
    observer: &'a dyn Observer,
    tracker: &'a dyn Tracker,
    /// Network and optimiser.
    learner: Box<dyn Learner>,
    /// Epochs and batches so far, learning-rate schedule, early stopping.
    progress: Progress,
    started: Instant,
    /// Training time of earlier sessions of the run.
    seconds_before: f64,
    /// Slices or patches in the previous epoch, 0 before the first.
    epoch_slices: u64,
    /// Duration of the previous validation.
    validation_time: Duration,
}

/// The result of the steps of one epoch.
struct Pass {
    slices_per_second: f64,
    /// Share of the time spent waiting for batches.
    waited_share: f64,
    /// Whether the deadline ended it.
    out_of_time: bool,
}

impl Trainer<'_> {
    fn run_epochs(&mut self) -> Result<()> {
        if self.is_done() {
            return Ok(());
        }
        std::thread::scope(|scope| {
            let batches = Batches::start(scope, self.job, &self.progress)?;
            while !self.is_done() {
                self.unfreeze()?;
                self.run_epoch(&batches)?;
            }
            Ok(())
        })
    }

    /// Whether training has ended, or pauses here.
    fn is_done(&self) -> bool {
        let pause_after = self.job.pause_after;
        self.progress.ended.is_some() || pause_after.is_some_and(|n| self.progress.epoch >= n)
    }

    /// One epoch: steps, validation, log, checkpoint.
    fn run_epoch(&mut self, batches: &Batches) -> Result<()> {
        let (job, recipe) = (self.job, self.job.source.recipe);
        let learning_rate = self.progress.learning_rate(&recipe.training);
        let mut log = StepLog::new(self.tracker, &job.name);
        let pass = self.take_steps(learning_rate, batches, &mut log);
        let pass = self.saved_if_interrupted(pass); // before the log: its disk may hang
        let logged = log.flush();
        let pass = pass?;
        job.group.on_rank_zero(|| match pass.out_of_time {
            true => logged.and_then(|()| self.save_within_epoch()),
            false => logged,
        })?;

        let validation_started = Instant::now();
        let validated = self.validate_epoch();
        let (validation, on_training) = self.saved_if_interrupted(validated)?;
        self.validation_time = validation_started.elapsed();

        let mean_loss = self.progress.mean_loss();
        self.progress = self.progress_now();
        let is_best = self
            .progress
            .record_epoch(&validation, &recipe.training, pass.out_of_time);
        let structures = job.source.output_names();
        let record = EpochRecord {
            network: &job.name,
            structures: &structures,
            progress: &self.progress,
            mean_loss,
            learning_rate,
            validation: &validation,
            training: on_training.as_ref(),
            interrupted: pass.out_of_time,
        };
        job.group.on_rank_zero(|| {
            self.tracker.log_epoch(&record)?;
            self.observer
                .info(&epoch_line(&record, &pass, recipe, is_best));
            let epoch = self.progress.epoch;
            let table = live_table(&job.name, epoch, &structures, &validation);
            self.observer.set_live_table(&table);
            self.save_epoch(is_best, pass.out_of_time)
        })?;
        Ok(())
    }

    /// Takes a step for every batch, from the position in `progress` on, until the epoch ends or time is up.
    fn take_steps(
        &mut self,
        learning_rate: f64,
        batches: &Batches,
        log: &mut StepLog,
    ) -> Result<Pass> {
        let (job, recipe) = (self.job, self.job.source.recipe);
        let save_every =
            Duration::from_secs_f64(60.0 * recipe.training.checkpoint_minutes.min(1e6));
        let deadline = self.training_deadline();
        let title = format!("{} epoch {}", job.name, self.progress.epoch + 1);
        let bar = self.observer.task(&title, self.epoch_slices, recipe.unit());
        let slices_before = self.progress.within.get_or_insert_default().slices;
        bar.advance(slices_before);
        let started = Instant::now();
        let (mut saved, mut waited, mut out_of_time) = (started, Duration::ZERO, false);
        while !out_of_time {
            let step_started = Instant::now();
            let batch = batches.next_batch(|| self.stopped_text());
            let Some(batch) = job.group.all_some_or_none(batch)? else {
                break;
            };
            let waited_now = step_started.elapsed();
            waited += waited_now;
            self.step(&batch, learning_rate, log, step_started, waited_now)?;
            bar.advance(batch.whole as u64);
            bar.note(&format!("loss {:.4}", self.progress.mean_loss()));
            // If one rank says so, all ranks follow after the same step.
            let [stop, time_is_up, save_now] = job.group.any([
                job.stop.load(Ordering::Relaxed),
                deadline.is_some_and(|end| Instant::now() >= end),
                saved.elapsed() >= save_every,
            ])?;
            if stop {
                job.group.mark_finished();
                return Err(Error::Interrupted(self.stopped_text()));
            }
            out_of_time = time_is_up;
            if save_now && !out_of_time {
                // Flushed first: a run resumed from this checkpoint reports only later steps.
                let save = || log.flush().and_then(|()| self.save_within_epoch());
                job.group.on_rank_zero(save)?;
                saved = Instant::now();
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        self.epoch_slices = self.progress.within.get_or_insert_default().slices;
        Ok(Pass {
            slices_per_second: (self.epoch_slices - slices_before) as f64 / seconds,
            waited_share: waited.as_secs_f64() / seconds,
            out_of_time,
        })
    }

    /// One optimiser step on `batch`, for which training `waited` from `started` on.
    fn step(
        &mut self,
        batch: &Batch,
        learning_rate: f64,
        log: &mut StepLog,
        started: Instant,
        waited: Duration,
    ) -> Result<()> {
        let job = self.job;
        // Depends on seed, epoch and batch alone, so that a resumed run repeats it.
        let epoch = (self.progress.epoch as u64 + 1) << 32;
        let batches = self.progress.within.get_or_insert_default().batches;
        let seed = job.seed.wrapping_add(epoch.wrapping_add(batches));
        let report = self.learner.step(batch, learning_rate, seed)?;
        if let Some(note) = &report.note {
            self.observer.warn(&format!("{}: {note}", job.name));
        }
        let step = Step {
            number: self.learner.steps(),
            learning_rate,
            report: &report,
            waited,
            took: started.elapsed(),
        };
        let logged = log.record(&step, Instant::now());
        let loss = report.is_taken().then_some(report.loss);
        self.progress.record_step(loss, batch.whole as u64);
        job.group
            .all_ok(logged.and_then(|()| self.check_bad_steps()))
    }

    fn check_bad_steps(&self) -> Result<()> {
        let bad_steps = self.progress.bad_steps;
        if bad_steps <= MAX_BAD_STEPS {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "{}: the gradient was not finite for {bad_steps} consecutive steps; lower training.optimiser.learning_rate",
            self.job.name
        )))
    }

    /// Validates on the held-out cases, and in some epochs on a few training cases for comparison.
    fn validate_epoch(&self) -> Result<(Validation, Option<Validation>)> {
        let (job, training) = (self.job, &self.job.source.recipe.training);
        let held_out = validate(job, self.learner.as_ref(), job.validation)?;
        let epoch = self.progress.epoch + 1;
        let is_watched =
            epoch <= 5 || epoch.is_multiple_of(training.watch_every) || epoch == training.epochs;
        let most = job.validation.len().min(job.train.len());
        let watched = &job.train[..training.watched_cases.min(most)];
        let watched = (is_watched && !watched.is_empty())
            .then(|| validate(job, self.learner.as_ref(), watched));
        Ok((held_out, watched.transpose()?))
    }

    /// When the steps must end: validation must end before the deadline as well.
    fn training_deadline(&self) -> Option<Instant> {
        let end = self.job.deadline?;
        Some(
            end.checked_sub(self.validation_time)
                .unwrap_or(self.started),
        )
    }

    /// Estimated validation time if there is a deadline: the time of one case multiplied by the number of cases.
    fn first_validation_time(&self) -> Result<Duration> {
        let job = self.job;
        let (Some(_), Some(first)) = (job.deadline, job.validation.first()) else {
            return Ok(Duration::ZERO);
        };
        let started = Instant::now();
        validate(job, self.learner.as_ref(), &[*first])?;
        Ok(started.elapsed() * job.validation.len() as u32)
    }

    /// Saves a checkpoint within the epoch if `outcome` is an interruption. Without agreement of the ranks: another
    /// one may have failed.
    fn saved_if_interrupted<T>(&self, outcome: Result<T>) -> Result<T> {
        if matches!(outcome, Err(Error::Interrupted(_))) && self.job.group.is_rank_zero() {
            self.save_within_epoch()?;
        }
        outcome
    }

    fn save_within_epoch(&self) -> Result<()> {
        let now = self.progress_now();
        let checkpoints = &self.job.checkpoints;
        checkpoints.save_last(&checkpoint(self.learner.as_ref(), &now)?)
    }

    /// Saves the checkpoints after an epoch. If it is incomplete, the last one stays within it.
    fn save_epoch(&self, is_best: bool, out_of_time: bool) -> Result<()> {
        let checkpoints = &self.job.checkpoints;
        let (learner, progress) = (self.learner.as_ref(), &self.progress);
        if out_of_time {
            return match is_best {
                true => checkpoints.save_stopped(&inference_checkpoint(learner, progress)?),
                false => Ok(()),
            };
        }
        let state = checkpoint(learner, progress)?;
        if is_best {
            checkpoints.save_best(&inference_checkpoint(learner, progress)?)?;
        }
        checkpoints.save_last(&state)
    }

    fn progress_now(&self) -> Progress {
        Progress {
            optimiser_steps: self.learner.steps(),
            seconds: self.seconds_before + self.started.elapsed().as_secs_f64(),
            ..self.progress.clone()
        }
    }

    /// The position of a stopped training.
    fn stopped_text(&self) -> String {
        format!(
            "{} stopped in epoch {}, saved in {}",
            self.job.name,
            self.progress.epoch + 1,
            self.job.checkpoints.last().display()
        )
    }

    /// Trains all encoder levels from now on, if the recipe says so at this epoch.
    fn unfreeze(&mut self) -> Result<()> {
        let unfreeze_epoch = self.job.source.recipe.training.unfreeze_epoch;
        if unfreeze_epoch != Some(self.progress.epoch) || self.progress.within.is_some() {
            return Ok(());
        }
        self.observer.info(&format!(
            "{}: all encoder levels are trained from now on",
            self.job.name
        ));
        let saved = checkpoint(self.learner.as_ref(), &self.progress)?;
        self.learner = restored(self.job, saved)?.learner;
        Ok(())
    }

    /// The weights of the epoch selected by `training.keep`; only rank 0 returns them.
    fn finish(mut self) -> Result<Trained> {
        let job = self.job;
        let keep = job.source.recipe.training.keep;
        if keep == Keep::Last && self.progress.last_validation.is_none() {
            // The checkpoint is of a version that did not record it.
            let validation = validate(job, self.learner.as_ref(), job.validation)?;
            self.progress.last_validation = Some(validation);
        }
        let last = self.progress.epoch;
        let best_is_last = self.progress.best.is_some_and(|(best, _)| best == last);
        let out_of_time = self.progress.ended == Some(StopReason::TimeLimit);
        let weights = job.group.on_rank_zero(|| match keep {
            Keep::Best if out_of_time && best_is_last => {
                Ok(Checkpoint::load(&job.checkpoints.stopped())?.network)
            }
            Keep::Best => Ok(Checkpoint::load(&job.checkpoints.best())?.network),
            Keep::Last => self.learner.averaged_weights(),
        })?;
        Ok(Trained {
            weights: weights.unwrap_or_default(),
            progress: self.progress,
        })
    }
}

/// The log line of a finished epoch.
fn epoch_line(record: &EpochRecord, pass: &Pass, recipe: &Recipe, is_best: bool) -> String {
    let value = |value: Option<f64>| or_undefined(value, 4);
    let validation = record.validation;
    format!(
        "{}: epoch {:>3}/{}  loss {}  validation Dice {}{} IoU {} accuracy {} loss {}  rate {:.1e}  {:.0} {}/s ({:.0} % waiting for data)",
        record.network,
        record.progress.epoch,
        recipe.training.epochs,
        value(Some(record.mean_loss)),
        value(validation.dice),
        if is_best { " (best)" } else { "" },
        value(validation.iou),
        value(validation.accuracy),
        value(validation.loss),
        record.learning_rate,
        pass.slices_per_second,
        recipe.unit(),
        100.0 * pass.waited_share,
    )
}
