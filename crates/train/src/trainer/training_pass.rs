//! One training pass over the patches of an epoch.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::job::TrainingJob;
use super::step_log::{Step, StepLog};
use ctseg_base::progress::Observer;
use ctseg_base::{Error, Result};
use ctseg_core::run::checkpoint::EpochPosition;
use ctseg_engine::batch::Batch;
use ctseg_engine::learner::{Learner, StepReport};

/// Number of consecutive steps with a non-finite gradient after which training fails.
const MAX_BAD_STEPS: usize = 20;

/// Interval at which the stop flag is checked while waiting for a batch.
const STOP_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The settings of one pass.
pub(super) struct TrainingPass<'a> {
    pub job: &'a TrainingJob<'a>,
    /// Index of the epoch, from 0.
    pub epoch: usize,
    pub learning_rate: f64,
    pub deadline: Option<Instant>,
    /// Number of slices in the epoch, 0 if unknown.
    pub slices_expected: u64,
    /// Checkpoint interval.
    pub save_every: Duration,
}

/// The state of a pass that a checkpoint within it needs beside the learner's.
#[derive(Debug, Clone, Default)]
pub(super) struct PassState {
    pub position: EpochPosition,
    /// Number of consecutive skipped steps up to now, across epochs.
    pub bad_steps: usize,
}

/// The result of one pass.
pub(super) struct PassOutcome {
    pub slices_per_second: f64,
    /// Share of the time spent waiting for batches.
    pub waited_share: f64,
    pub out_of_time: bool,
}

impl PassState {
    fn record(&mut self, report: &StepReport, slices: u64) {
        self.position.batches += 1;
        self.position.slices += slices;
        if report.is_taken() {
            self.position.loss_sum += report.loss;
            self.position.steps_taken += 1;
            self.bad_steps = 0;
        } else {
            self.bad_steps += 1;
        }
    }

    /// NaN if no step was taken.
    pub(super) fn mean_loss(&self) -> f64 {
        self.position.loss_sum / f64::from(self.position.steps_taken)
    }
}

/// Writes a checkpoint within a pass.
pub(super) type Save<'a> = &'a dyn Fn(&dyn Learner, &PassState) -> Result<()>;

impl TrainingPass<'_> {
    /// Takes a step for every batch, from `state` on, until the epoch ends or time is up. The caller must flush `log`
    /// afterwards, also after an error.
    ///
    /// # Errors
    /// Stopped (a checkpoint is written first); too many consecutive steps with a non-finite gradient; errors of the
    /// data loader and the learner.
    pub(super) fn run(
        &self,
        learner: &mut dyn Learner,
        batches: &Receiver<Result<Option<Batch>>>,
        state: &mut PassState,
        save: Save,
        observer: &dyn Observer,
        log: &mut StepLog,
    ) -> Result<PassOutcome> {
        let unit = self.job.source.recipe.unit();
        let title = format!("{} epoch {}", self.job.name, self.epoch + 1);
        let task = observer.task(&title, self.slices_expected, unit);
        task.advance(state.position.slices);
        let slices_before = state.position.slices;
        let started = Instant::now();
        let mut saved = started;
        let (mut waited, mut out_of_time) = (Duration::ZERO, false);
        loop {
            let step_started = Instant::now();
            let batch = self.job.group.all_some_or_none(self.next(batches));
            if let Err(Error::Interrupted(_)) = &batch {
                save(learner, state)?;
            }
            let Some(batch) = batch? else {
                break;
            };
            let waited_now = step_started.elapsed();
            waited += waited_now;
            let timed = (&batch, step_started, waited_now);
            self.step(learner, timed, state, observer, log)?;
            task.advance(batch.whole as u64);
            task.note(&format!("loss {:.4}", state.mean_loss()));
            let [stopped, time_is_up, save_now] = self.poll(saved)?;
            if stopped {
                self.job.group.mark_finished();
                save(learner, state)?;
                return Err(self.interrupted());
            }
            out_of_time = time_is_up;
            if out_of_time {
                break;
            }
            if save_now {
                // Flushed first: a run resumed from this checkpoint reports only later steps.
                let kept = log.flush().and_then(|()| save(learner, state));
                self.job.group.all_ok(kept)?;
                saved = Instant::now();
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        Ok(PassOutcome {
            slices_per_second: (state.position.slices - slices_before) as f64 / seconds,
            waited_share: waited.as_secs_f64() / seconds,
            out_of_time,
        })
    }

    /// One optimiser step; with the batch come the time the step started and how long it waited for the batch.
    fn step(
        &self,
        learner: &mut dyn Learner,
        (batch, started, waited): (&Batch, Instant, Duration),
        state: &mut PassState,
        observer: &dyn Observer,
        log: &mut StepLog,
    ) -> Result<()> {
        let seed = self.seed(state.position.batches);
        let report = learner.step(batch, self.learning_rate, seed)?;
        if let Some(note) = &report.note {
            observer.warn(&format!("{}: {note}", self.job.name));
        }
        let step = Step {
            number: learner.steps(),
            learning_rate: self.learning_rate,
            report: &report,
            waited,
            took: started.elapsed(),
        };
        let logged = log.record(&step, Instant::now());
        state.record(&report, batch.whole as u64);
        let checked = logged.and_then(|()| self.check_bad_steps(state));
        self.job.group.all_ok(checked)
    }

    fn check_bad_steps(&self, state: &PassState) -> Result<()> {
        if state.bad_steps <= MAX_BAD_STEPS {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "{}: the gradient was not finite for {} consecutive steps; lower training.optimiser.learning_rate",
            self.job.name, state.bad_steps
        )))
    }

    /// The seed of dropout depends on job seed, rank, epoch and step alone, so that a resumed run repeats it.
    fn seed(&self, step: u64) -> u64 {
        let epoch = (self.epoch as u64 + 1) << 32;
        let rank = (self.job.group.rank() as u64) << 56;
        let offset = epoch.wrapping_add(rank).wrapping_add(step);
        self.job.seed.wrapping_add(offset)
    }

    /// Whether to stop, whether time is up, and whether a checkpoint is due. If one rank says so, all ranks follow
    /// after the same step.
    fn poll(&self, saved: Instant) -> Result<[bool; 3]> {
        self.job.group.any([
            self.job.stop.load(Ordering::Relaxed),
            self.deadline.is_some_and(|end| Instant::now() >= end),
            saved.elapsed() >= self.save_every,
        ])
    }

    /// The error of a stopped training, with its position.
    fn interrupted(&self) -> Error {
        Error::Interrupted(format!(
            "{} stopped in epoch {}, saved in {}",
            self.job.name,
            self.epoch + 1,
            self.job.checkpoints.last().display()
        ))
    }

    /// The next batch; `None` at the end of the epoch. The first one may take long, because several cases are read for
    /// it.
    fn next(&self, batches: &Receiver<Result<Option<Batch>>>) -> Result<Option<Batch>> {
        loop {
            match batches.recv_timeout(STOP_POLL_INTERVAL) {
                Ok(Err(Error::Interrupted(_))) | Err(RecvTimeoutError::Timeout) => {
                    if self.job.stop.load(Ordering::Relaxed) {
                        return Err(self.interrupted());
                    }
                }
                Ok(batch) => return batch,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::internal("the data-loader thread ended early"));
                }
            }
        }
    }
}
