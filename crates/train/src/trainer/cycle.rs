//! What is done for one epoch: training, validation, writing down.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use super::epoch::{Epoch, EpochOutcome, Standing};
use super::job::TrainingJob;
use super::live_table::standings;
use super::snapshot::{checkpoint, in_use};
use super::step_log::StepLog;
use super::validation::validated;
use ctseg_base::progress::Observer;
use ctseg_base::text::table::or_undefined;
use ctseg_base::{Error, Result};
use ctseg_core::run::checkpoint::Progress;
use ctseg_core::run::tracker::{EpochRecord, Tracker};
use ctseg_core::run::validation::Validation;
use ctseg_engine::batch::Batch;
use ctseg_engine::learner::Learner;

/// The time that a training takes over all its sessions.
pub(super) struct Clock {
    pub started: Instant,
    pub seconds_before: f64,
}

impl Clock {
    fn seconds(&self) -> f64 {
        self.seconds_before + self.started.elapsed().as_secs_f64()
    }
}

/// What the epoch before says about the next.
pub(super) struct Expected {
    pub slices: u64,
    pub validation: Duration,
}

/// What an epoch needs beside what it changes.
pub(super) struct OneEpoch<'a> {
    pub job: &'a TrainingJob<'a>,
    pub clock: &'a Clock,
    pub observer: &'a dyn Observer,
    pub tracker: &'a dyn Tracker,
}

impl OneEpoch<'_> {
    /// Trains, validates, writes down. Where time is up within the epoch, `progress` and the last checkpoint
    /// stay within it, for a run that goes on, and what was reached so far is returned.
    pub(super) fn done(
        &self,
        learner: &mut dyn Learner,
        progress: &mut Progress,
        batches: &Receiver<Result<Option<Batch>>>,
        expected: &mut Expected,
    ) -> Result<Option<Progress>> {
        let job = self.job;
        let epoch = self.epoch(progress, expected);
        let (outcome, standing) = self.trained(&epoch, learner, progress, batches)?;
        expected.slices = standing.position.slices;

        let begun = Instant::now();
        let watched = match self.is_watched(progress.epoch + 1) {
            true => self.watched(),
            false => &[],
        };
        let measured = validate_both(job, learner, watched);
        if let Err(Error::Interrupted(_)) = &measured {
            self.save_within(learner, progress, &standing)?;
        }
        let (validation, on_training) = measured?;
        expected.validation = begun.elapsed();

        *progress = self.within(progress, &standing, learner);
        let mut after = progress.clone();
        let training = &job.source.recipe.training;
        let is_best = after.take_in(&validation, training, outcome.out_of_time);
        let told = self.tracker.epoch(&EpochRecord {
            network: &job.name,
            structures: &job.source.output_names(),
            progress: &after,
            mean_loss: standing.mean_loss(),
            learning_rate: epoch.rate,
            validation: &validation,
            training: on_training.as_ref(),
            broken_off: outcome.out_of_time,
        });
        job.team.together(told)?;
        let line = epoch_line(&epoch, &outcome, standing.mean_loss(), &validation, is_best);
        self.say(&line, epoch.number, &validation);
        job.team
            .together(self.save(learner, &after, (is_best, outcome.out_of_time)))?;
        if outcome.out_of_time {
            return Ok(Some(after));
        }
        *progress = after;
        Ok(None)
    }

    fn epoch(&self, progress: &Progress, expected: &Expected) -> Epoch<'_> {
        let training = &self.job.source.recipe.training;
        let started = self.clock.started;
        Epoch {
            job: self.job,
            number: progress.epoch,
            rate: progress.learning_rate(training),
            // Validation must be over by the deadline too.
            until: self
                .job
                .deadline
                .map(|end| end.checked_sub(expected.validation).unwrap_or(started)),
            slices_expected: expected.slices,
            save_every: Duration::from_secs_f64(60.0 * training.checkpoint_minutes.min(1e6)),
        }
    }

    /// The steps of the epoch that are not done yet, with a checkpoint where its time is up.
    fn trained(
        &self,
        epoch: &Epoch,
        learner: &mut dyn Learner,
        progress: &Progress,
        batches: &Receiver<Result<Option<Batch>>>,
    ) -> Result<(EpochOutcome, Standing)> {
        let team = &self.job.team;
        let mut standing = Standing {
            position: progress.within.clone().unwrap_or_default(),
            bad_steps: progress.bad_steps,
        };
        let save = |learner: &dyn Learner, standing: &Standing| {
            self.save_within(learner, progress, standing)
        };
        let mut log = StepLog::new(self.tracker, &self.job.name);
        let outcome = epoch.run(
            learner,
            batches,
            &mut standing,
            &save,
            self.observer,
            &mut log,
        );
        let flushed = log.flush();
        let outcome = outcome?;
        team.together(flushed)?;
        if outcome.out_of_time {
            team.together(save(learner, &standing))?;
        }
        Ok((outcome, standing))
    }

    fn say(&self, line: &str, epoch: usize, validation: &Validation) {
        self.observer.say(line);
        self.observer.board(&standings(
            &self.job.name,
            epoch + 1,
            &self.job.source.output_names(),
            validation,
        ));
    }

    /// A checkpoint within the epoch under way.
    fn save_within(
        &self,
        learner: &dyn Learner,
        progress: &Progress,
        standing: &Standing,
    ) -> Result<()> {
        let within = self.within(progress, standing, learner);
        let checkpoints = &self.job.checkpoints;
        self.if_leading(|| checkpoints.save_last(&checkpoint(learner, &within)?))
    }

    /// The checkpoints that an epoch leaves.
    fn save(
        &self,
        learner: &dyn Learner,
        after: &Progress,
        (is_best, out_of_time): (bool, bool),
    ) -> Result<()> {
        let checkpoints = &self.job.checkpoints;
        self.if_leading(|| match out_of_time {
            true if is_best => checkpoints.save_stopped(&in_use(learner, after)?),
            true => Ok(()),
            false => {
                let state = checkpoint(learner, after)?;
                if is_best {
                    checkpoints.save_best(&in_use(learner, after)?)?;
                }
                checkpoints.save_last(&state)
            }
        })
    }

    /// Of several processes the first one writes files.
    fn if_leading(&self, write: impl FnOnce() -> Result<()>) -> Result<()> {
        match self.job.team.leads() {
            true => write(),
            false => Ok(()),
        }
    }

    /// `progress` with how far the epoch under way has come.
    fn within(&self, progress: &Progress, standing: &Standing, learner: &dyn Learner) -> Progress {
        Progress {
            optimiser_steps: learner.steps(),
            seconds: self.clock.seconds(),
            bad_steps: standing.bad_steps,
            within: Some(standing.position.clone()),
            ..progress.clone()
        }
    }

    /// Whether training cases are measured after epoch `epoch` (from 1 on): where curves bend most, now and then, and at
    /// the end.
    fn is_watched(&self, epoch: usize) -> bool {
        let training = &self.job.source.recipe.training;
        epoch <= 5 || epoch.is_multiple_of(training.watch_every) || epoch == training.epochs
    }

    /// The training cases that are measured as the held-out ones.
    fn watched(&self) -> &[usize] {
        let wanted = self.job.source.recipe.training.watched_cases;
        let count = wanted.min(self.job.validation.len());
        &self.job.train[..count.min(self.job.train.len())]
    }
}

/// What the network in use reaches on held-out cases, and on `watched` ones if there are any.
fn validate_both(
    job: &TrainingJob,
    learner: &dyn Learner,
    watched: &[usize],
) -> Result<(Validation, Option<Validation>)> {
    let held_out = validated(job, learner, job.validation)?;
    let watched = (!watched.is_empty()).then(|| validated(job, learner, watched));
    Ok((held_out, watched.transpose()?))
}

/// What is said of an epoch that is over.
fn epoch_line(
    epoch: &Epoch,
    outcome: &EpochOutcome,
    mean_loss: f64,
    validation: &Validation,
    is_best: bool,
) -> String {
    let value = |value: Option<f64>| or_undefined(value, 4);
    format!(
        "{}: epoch {:>3}/{}  loss {}  validation Dice {}{} IoU {} accuracy {} loss {}  rate {:.1e}  {:.0} {}/s ({:.0} % waiting for data)",
        epoch.job.name,
        epoch.number + 1,
        epoch.job.source.recipe.training.epochs,
        value(Some(mean_loss)),
        value(validation.dice),
        if is_best { " (best)" } else { "" },
        value(validation.iou),
        value(validation.accuracy),
        value(validation.loss),
        epoch.rate,
        outcome.slices_per_second,
        epoch.job.source.recipe.unit(),
        100.0 * outcome.waited_share,
    )
}
