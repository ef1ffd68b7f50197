//! One pass over the training slices.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use super::guard::unless_stopped;
use super::observer::Observer;
use super::training::TrainingJob;
use crate::error::{Error, Result};
use crate::tensors::batch::Batch;
use crate::tensors::learner::{Learner, StepReport};

/// Steps with a gradient that is not finite after which training gives up.
const TOLERATED_BAD_STEPS: usize = 20;

/// What one pass is told.
pub(super) struct Epoch<'a> {
    pub job: &'a TrainingJob<'a>,
    /// Epochs before this one.
    pub number: usize,
    pub rate: f64,
    pub until: Option<Instant>,
    /// Slices of the epoch, 0 if not known.
    pub slices_expected: u64,
}

/// What came of one pass.
pub(super) struct EpochOutcome {
    pub mean_loss: f64,
    pub slices: u64,
    pub slices_per_second: f64,
    /// Part of the time that the network waited for batches.
    pub waited_share: f64,
    pub out_of_time: bool,
}

/// Losses of the steps that were taken, and how many in a row were not.
#[derive(Default)]
pub(super) struct Losses {
    sum: f64,
    taken: u32,
    bad_in_a_row: usize,
}

impl Losses {
    fn add(&mut self, report: &StepReport) {
        if report.is_taken() {
            self.sum += report.loss;
            self.taken += 1;
            self.bad_in_a_row = 0;
        } else {
            self.bad_in_a_row += 1;
        }
    }

    /// NaN where no step was taken.
    fn mean(&self) -> f64 {
        self.sum / f64::from(self.taken)
    }
}

impl Epoch<'_> {
    /// Steps along every batch until the epoch or the time is over. `bad_before` counts the steps left out
    /// in a row up to now, over all epochs.
    pub(super) fn run(
        &self,
        learner: &mut Learner,
        batches: &Receiver<Result<Option<Batch>>>,
        bad_before: &mut usize,
        observer: &dyn Observer,
    ) -> Result<EpochOutcome> {
        let name = &self.job.name;
        let unit = self.job.source.recipe.unit();
        let title = format!("{name} epoch {}", self.number + 1);
        let task = observer.task(&title, self.slices_expected, unit);
        let started = Instant::now();
        let mut losses = Losses {
            bad_in_a_row: *bad_before,
            ..Losses::default()
        };
        let (mut waited, mut slices, mut out_of_time) = (Duration::ZERO, 0u64, false);
        for step in 0.. {
            let begun = Instant::now();
            let Some(batch) = next(batches)? else {
                break;
            };
            waited += begun.elapsed();
            let report = learner.step(&batch, self.rate, self.seed(step))?;
            if let Some(note) = &report.note {
                observer.warn(&format!("{name}: {note}"));
            }
            losses.add(&report);
            *bad_before = losses.bad_in_a_row;
            if losses.bad_in_a_row > TOLERATED_BAD_STEPS {
                return Err(Error::invalid(format!(
                    "{name}: the gradient has not been finite for {} steps; lower training.optimiser.learning_rate",
                    losses.bad_in_a_row
                )));
            }
            slices += batch.input_shape[0] as u64;
            task.advance(batch.input_shape[0] as u64);
            task.note(&format!("loss {:.4}", losses.mean()));
            self.unless_stopped()?;
            out_of_time = self.until.is_some_and(|end| Instant::now() >= end);
            if out_of_time {
                break;
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        Ok(EpochOutcome {
            mean_loss: losses.mean(),
            slices,
            slices_per_second: slices as f64 / seconds,
            waited_share: waited.as_secs_f64() / seconds,
            out_of_time,
        })
    }

    /// Dropout's draws depend on seed, epoch and step alone, so that a resumed run repeats them.
    fn seed(&self, step: u64) -> u64 {
        let epoch = (self.number as u64 + 1) << 32;
        self.job.seed.wrapping_add(epoch).wrapping_add(step)
    }

    fn unless_stopped(&self) -> Result<()> {
        unless_stopped(self.job.stop, || {
            format!(
                "{} stands at epoch {} in {}",
                self.job.name,
                self.number,
                self.job.checkpoints.last().display()
            )
        })
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
