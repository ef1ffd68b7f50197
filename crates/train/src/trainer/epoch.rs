//! One pass over the training slices.

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

/// Steps with a gradient that is not finite after which training gives up.
const TOLERATED_BAD_STEPS: usize = 20;

/// How often it is seen, while a batch is waited for, whether somebody asks to stop.
const LOOK_AT_STOP: Duration = Duration::from_millis(100);

/// What one pass is told.
pub(super) struct Epoch<'a> {
    pub job: &'a TrainingJob<'a>,
    /// Epochs before this one.
    pub number: usize,
    pub rate: f64,
    pub until: Option<Instant>,
    /// Slices of the epoch, 0 if not known.
    pub slices_expected: u64,
    /// How long after the last checkpoint another one is written.
    pub save_every: Duration,
}

/// Where a pass stands: what a checkpoint within it must hold beside the learner.
#[derive(Debug, Clone, Default)]
pub(super) struct Standing {
    pub position: EpochPosition,
    /// Steps left out in a row up to now, over all epochs.
    pub bad_steps: usize,
}

/// What came of one pass.
pub(super) struct EpochOutcome {
    pub slices_per_second: f64,
    /// Part of the time that the network waited for batches.
    pub waited_share: f64,
    pub out_of_time: bool,
}

impl Standing {
    fn take_in(&mut self, report: &StepReport, slices: u64) {
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

    /// NaN where no step was taken.
    pub(super) fn mean_loss(&self) -> f64 {
        self.position.loss_sum / f64::from(self.position.steps_taken)
    }
}

/// Writes a checkpoint of where a pass stands.
pub(super) type Save<'a> = &'a dyn Fn(&dyn Learner, &Standing) -> Result<()>;

impl Epoch<'_> {
    /// Steps along every batch until the epoch or the time is over, from `standing` on. `log` is to be flushed
    /// afterwards, however that went.
    ///
    /// # Errors
    /// Asked to stop (where it stands is saved first), too many steps in a row without a gradient, and what
    /// batches and learner say.
    pub(super) fn run(
        &self,
        learner: &mut dyn Learner,
        batches: &Receiver<Result<Option<Batch>>>,
        standing: &mut Standing,
        save: Save,
        observer: &dyn Observer,
        log: &mut StepLog,
    ) -> Result<EpochOutcome> {
        let unit = self.job.source.recipe.unit();
        let title = format!("{} epoch {}", self.job.name, self.number + 1);
        let task = observer.task(&title, self.slices_expected, unit);
        task.advance(standing.position.slices);
        let slices_before = standing.position.slices;
        let started = Instant::now();
        let mut saved = started;
        let (mut waited, mut out_of_time) = (Duration::ZERO, false);
        loop {
            let begun = Instant::now();
            let batch = self.job.team.next_together(self.next(batches));
            if let Err(Error::Interrupted(_)) = &batch {
                save(learner, standing)?;
            }
            let Some(batch) = batch? else {
                break;
            };
            let waited_now = begun.elapsed();
            waited += waited_now;
            let timed = (&batch, begun, waited_now);
            self.step(learner, timed, standing, observer, log)?;
            task.advance(batch.whole as u64);
            task.note(&format!("loss {:.4}", standing.mean_loss()));
            let [stopped, time_is_up, save_now] = self.asked(saved)?;
            if stopped {
                self.job.team.part();
                save(learner, standing)?;
                return Err(self.interrupted());
            }
            out_of_time = time_is_up;
            if out_of_time {
                break;
            }
            if save_now {
                // A run that goes on from here tells what follows.
                let kept = log.flush().and_then(|()| save(learner, standing));
                self.job.team.together(kept)?;
                saved = Instant::now();
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        Ok(EpochOutcome {
            slices_per_second: (standing.position.slices - slices_before) as f64 / seconds,
            waited_share: waited.as_secs_f64() / seconds,
            out_of_time,
        })
    }

    /// One step along a batch for which was waited so long, from `begun` on.
    fn step(
        &self,
        learner: &mut dyn Learner,
        (batch, begun, waited): (&Batch, Instant, Duration),
        standing: &mut Standing,
        observer: &dyn Observer,
        log: &mut StepLog,
    ) -> Result<()> {
        let seed = self.seed(standing.position.batches);
        let report = learner.step(batch, self.rate, seed)?;
        if let Some(note) = &report.note {
            observer.warn(&format!("{}: {note}", self.job.name));
        }
        let step = Step {
            number: learner.steps(),
            rate: self.rate,
            report: &report,
            waited,
            took: begun.elapsed(),
        };
        let told = log.take_in(&step, Instant::now());
        standing.take_in(&report, batch.whole as u64);
        let hopeful = told.and_then(|()| self.unless_hopeless(standing));
        self.job.team.together(hopeful)
    }

    fn unless_hopeless(&self, standing: &Standing) -> Result<()> {
        if standing.bad_steps <= TOLERATED_BAD_STEPS {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "{}: the gradient has not been finite for {} steps; lower training.optimiser.learning_rate",
            self.job.name, standing.bad_steps
        )))
    }

    /// Dropout's draws depend on seed, process, epoch and step alone, so that a resumed run repeats them.
    fn seed(&self, step: u64) -> u64 {
        let epoch = (self.number as u64 + 1) << 32;
        let process = (self.job.team.rank() as u64) << 56;
        let place = epoch.wrapping_add(process).wrapping_add(step);
        self.job.seed.wrapping_add(place)
    }

    /// Whether to stop, whether time is up, and whether a checkpoint is due. All processes do what one of them is
    /// asked for, after the same step.
    fn asked(&self, saved: Instant) -> Result<[bool; 3]> {
        self.job.team.any([
            self.job.stop.load(Ordering::Relaxed),
            self.until.is_some_and(|end| Instant::now() >= end),
            saved.elapsed() >= self.save_every,
        ])
    }

    /// Says where the training stands.
    fn interrupted(&self) -> Error {
        Error::Interrupted(format!(
            "{} stands in epoch {}, saved in {}",
            self.job.name,
            self.number + 1,
            self.job.checkpoints.last().display()
        ))
    }

    /// The next batch; `None` at the end of the epoch. The first may take its time: several cases are read for it.
    fn next(&self, batches: &Receiver<Result<Option<Batch>>>) -> Result<Option<Batch>> {
        loop {
            match batches.recv_timeout(LOOK_AT_STOP) {
                Ok(Err(Error::Interrupted(_))) | Err(RecvTimeoutError::Timeout) => {
                    if self.job.stop.load(Ordering::Relaxed) {
                        return Err(self.interrupted());
                    }
                }
                Ok(batch) => return batch,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::invalid(
                        "internal: the thread that prepares batches ended early",
                    ));
                }
            }
        }
    }
}
