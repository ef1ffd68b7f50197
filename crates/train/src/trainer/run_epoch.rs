//! One epoch: training, validation, logging, checkpoints.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use super::job::TrainingJob;
use super::live_table::live_table;
use super::snapshot::{checkpoint, inference_checkpoint};
use super::step_log::StepLog;
use super::training_pass::{PassOutcome, PassState, TrainingPass};
use super::validation::validate;
use ctseg_base::progress::Observer;
use ctseg_base::text::table::or_undefined;
use ctseg_base::{Error, Result};
use ctseg_core::run::checkpoint::Progress;
use ctseg_core::run::tracker::{EpochRecord, Tracker};
use ctseg_core::run::validation::Validation;
use ctseg_engine::batch::Batch;
use ctseg_engine::learner::Learner;

/// Training time, summed over all sessions of the run.
pub(super) struct Clock {
    pub started: Instant,
    pub seconds_before: f64,
}

impl Clock {
    fn seconds(&self) -> f64 {
        self.seconds_before + self.started.elapsed().as_secs_f64()
    }
}

/// What the previous epoch predicts for the next one.
pub(super) struct Expected {
    pub slices: u64,
    pub validation: Duration,
}

/// Runs epochs of one network.
pub(super) struct EpochRunner<'a> {
    pub job: &'a TrainingJob<'a>,
    pub clock: &'a Clock,
    pub observer: &'a dyn Observer,
    pub tracker: &'a dyn Tracker,
}

impl EpochRunner<'_> {
    /// Trains, validates and saves. If time is up within the epoch, `progress` and the last checkpoint stay within it,
    /// so that the run can be resumed there, and the progress so far is returned.
    pub(super) fn run(
        &self,
        learner: &mut dyn Learner,
        progress: &mut Progress,
        batches: &Receiver<Result<Option<Batch>>>,
        expected: &mut Expected,
    ) -> Result<Option<Progress>> {
        let job = self.job;
        let pass = self.training_pass(progress, expected);
        let (outcome, state) = self.train(&pass, learner, progress, batches)?;
        expected.slices = state.position.slices;

        let validation_started = Instant::now();
        let watched = match self.is_watched(progress.epoch + 1) {
            true => self.watched_cases(),
            false => &[],
        };
        let validated = validate_both(job, learner, watched);
        if let Err(Error::Interrupted(_)) = &validated {
            self.save_within(learner, progress, &state)?;
        }
        let (validation, on_training) = validated?;
        expected.validation = validation_started.elapsed();

        *progress = self.progress_within(progress, &state, learner);
        let mut after = progress.clone();
        let training = &job.source.recipe.training;
        let is_best = after.record_epoch(&validation, training, outcome.out_of_time);
        let logged = self.tracker.log_epoch(&EpochRecord {
            network: &job.name,
            structures: &job.source.output_names(),
            progress: &after,
            mean_loss: state.mean_loss(),
            learning_rate: pass.learning_rate,
            validation: &validation,
            training: on_training.as_ref(),
            interrupted: outcome.out_of_time,
        });
        job.group.all_ok(logged)?;
        let line = epoch_line(&pass, &outcome, state.mean_loss(), &validation, is_best);
        self.report(&line, pass.epoch, &validation);
        job.group
            .all_ok(self.save(learner, &after, (is_best, outcome.out_of_time)))?;
        if outcome.out_of_time {
            return Ok(Some(after));
        }
        *progress = after;
        Ok(None)
    }

    fn training_pass(&self, progress: &Progress, expected: &Expected) -> TrainingPass<'_> {
        let training = &self.job.source.recipe.training;
        let started = self.clock.started;
        TrainingPass {
            job: self.job,
            epoch: progress.epoch,
            learning_rate: progress.learning_rate(training),
            // Validation must end before the deadline as well.
            deadline: self
                .job
                .deadline
                .map(|end| end.checked_sub(expected.validation).unwrap_or(started)),
            slices_expected: expected.slices,
            save_every: Duration::from_secs_f64(60.0 * training.checkpoint_minutes.min(1e6)),
        }
    }

    /// Takes the remaining steps of the epoch, with a checkpoint if time is up.
    fn train(
        &self,
        pass: &TrainingPass,
        learner: &mut dyn Learner,
        progress: &Progress,
        batches: &Receiver<Result<Option<Batch>>>,
    ) -> Result<(PassOutcome, PassState)> {
        let group = &self.job.group;
        let mut state = PassState {
            position: progress.within.clone().unwrap_or_default(),
            bad_steps: progress.bad_steps,
        };
        let save =
            |learner: &dyn Learner, state: &PassState| self.save_within(learner, progress, state);
        let mut log = StepLog::new(self.tracker, &self.job.name);
        let outcome = pass.run(learner, batches, &mut state, &save, self.observer, &mut log);
        let flushed = log.flush();
        let outcome = outcome?;
        group.all_ok(flushed)?;
        if outcome.out_of_time {
            group.all_ok(save(learner, &state))?;
        }
        Ok((outcome, state))
    }

    fn report(&self, line: &str, epoch: usize, validation: &Validation) {
        self.observer.info(line);
        self.observer.set_live_table(&live_table(
            &self.job.name,
            epoch + 1,
            &self.job.source.output_names(),
            validation,
        ));
    }

    /// Saves a checkpoint within the current epoch.
    fn save_within(
        &self,
        learner: &dyn Learner,
        progress: &Progress,
        state: &PassState,
    ) -> Result<()> {
        let within = self.progress_within(progress, state, learner);
        let checkpoints = &self.job.checkpoints;
        self.on_rank_zero(|| checkpoints.save_last(&checkpoint(learner, &within)?))
    }

    /// Saves the checkpoints after an epoch.
    fn save(
        &self,
        learner: &dyn Learner,
        after: &Progress,
        (is_best, out_of_time): (bool, bool),
    ) -> Result<()> {
        let checkpoints = &self.job.checkpoints;
        self.on_rank_zero(|| match out_of_time {
            true if is_best => checkpoints.save_stopped(&inference_checkpoint(learner, after)?),
            true => Ok(()),
            false => {
                let state = checkpoint(learner, after)?;
                if is_best {
                    checkpoints.save_best(&inference_checkpoint(learner, after)?)?;
                }
                checkpoints.save_last(&state)
            }
        })
    }

    /// Only rank 0 writes files.
    fn on_rank_zero(&self, write: impl FnOnce() -> Result<()>) -> Result<()> {
        match self.job.group.is_rank_zero() {
            true => write(),
            false => Ok(()),
        }
    }

    /// `progress` with the position in the current epoch.
    fn progress_within(
        &self,
        progress: &Progress,
        state: &PassState,
        learner: &dyn Learner,
    ) -> Progress {
        Progress {
            optimiser_steps: learner.steps(),
            seconds: self.clock.seconds(),
            bad_steps: state.bad_steps,
            within: Some(state.position.clone()),
            ..progress.clone()
        }
    }

    /// Whether the watched training cases are validated after epoch `epoch` (from 1): the first five epochs, every
    /// `training.watch_every` epochs, and the last.
    fn is_watched(&self, epoch: usize) -> bool {
        let training = &self.job.source.recipe.training;
        epoch <= 5 || epoch.is_multiple_of(training.watch_every) || epoch == training.epochs
    }

    /// The training cases that are validated like the held-out ones.
    fn watched_cases(&self) -> &[usize] {
        let wanted = self.job.source.recipe.training.watched_cases;
        let count = wanted.min(self.job.validation.len());
        &self.job.train[..count.min(self.job.train.len())]
    }
}

/// Validates the current weights on the held-out cases, and on the `watched` training cases if there are any.
fn validate_both(
    job: &TrainingJob,
    learner: &dyn Learner,
    watched: &[usize],
) -> Result<(Validation, Option<Validation>)> {
    let held_out = validate(job, learner, job.validation)?;
    let watched = (!watched.is_empty()).then(|| validate(job, learner, watched));
    Ok((held_out, watched.transpose()?))
}

/// The log line of a finished epoch.
fn epoch_line(
    pass: &TrainingPass,
    outcome: &PassOutcome,
    mean_loss: f64,
    validation: &Validation,
    is_best: bool,
) -> String {
    let value = |value: Option<f64>| or_undefined(value, 4);
    format!(
        "{}: epoch {:>3}/{}  loss {}  validation Dice {}{} IoU {} accuracy {} loss {}  rate {:.1e}  {:.0} {}/s ({:.0} % waiting for data)",
        pass.job.name,
        pass.epoch + 1,
        pass.job.source.recipe.training.epochs,
        value(Some(mean_loss)),
        value(validation.dice),
        if is_best { " (best)" } else { "" },
        value(validation.iou),
        value(validation.accuracy),
        value(validation.loss),
        pass.learning_rate,
        outcome.slices_per_second,
        pass.job.source.recipe.unit(),
        100.0 * outcome.waited_share,
    )
}
