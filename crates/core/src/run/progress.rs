//! Progress of a training, and when it stops.

use serde::{Deserialize, Serialize};

use super::early_stopping::EarlyStopping;
use super::plateau::ReduceOnPlateau;
use super::validation::Validation;
use crate::recipe::TrainingConfig;
use crate::recipe::keep::Keep;
use crate::recipe::schedule::ScheduleSettings;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Completed epochs.
    pub epoch: usize,
    pub optimiser_steps: u64,
    pub plateau: ReduceOnPlateau,
    pub early_stopping: EarlyStopping,
    /// The best epoch so far and its validation Dice (may be undefined); none before the first validation.
    pub best: Option<(usize, Option<f64>)>,
    #[serde(default)]
    pub best_validation: Option<Validation>,
    #[serde(default)]
    pub last_validation: Option<Validation>,
    /// Training time in seconds, over all sessions.
    pub seconds: f64,
    /// Why training ended; none while it has not.
    pub ended: Option<StopReason>,
    /// Consecutive steps skipped because of a non-finite gradient.
    #[serde(default)]
    pub bad_steps: usize,
    /// Position within the current epoch; none between epochs.
    #[serde(default)]
    pub within: Option<EpochPosition>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct EpochPosition {
    /// Batches so far.
    pub batches: u64,
    /// Slices or patches in them.
    pub slices: u64,
    /// Steps taken, and the sum of their losses.
    pub steps_taken: u32,
    pub loss_sum: f64,
}

impl Progress {
    /// Before the first step.
    pub fn new(learning_rate: f64) -> Self {
        Self {
            epoch: 0,
            optimiser_steps: 0,
            plateau: ReduceOnPlateau::new(learning_rate),
            early_stopping: EarlyStopping::new(),
            best: None,
            best_validation: None,
            last_validation: None,
            seconds: 0.0,
            ended: None,
            bad_steps: 0,
            within: None,
        }
    }

    /// The learning rate of the next epoch.
    pub fn learning_rate(&self, training: &TrainingConfig) -> f64 {
        let settings = ScheduleSettings {
            learning_rate: training.optimiser.learning_rate,
            epochs: training.epochs,
            warmup_epochs: training.warmup_epochs,
        };
        let rate = training.schedule.learning_rate(&settings, self.epoch);
        rate.unwrap_or_else(|| self.plateau.learning_rate())
    }

    /// The epoch whose weights are kept and its validation Dice (may be undefined); none before the first
    /// validation.
    pub fn kept(&self, keep: Keep) -> Option<(usize, Option<f64>)> {
        match keep {
            Keep::Best => self.best,
            Keep::Last => self
                .last_validation
                .as_ref()
                .map(|last| (self.epoch, last.dice)),
        }
    }

    /// The current position, in words.
    pub fn position_text(&self) -> String {
        match &self.within {
            Some(within) => format!("epoch {}, batch {}", self.epoch + 1, within.batches),
            None => format!("after epoch {}", self.epoch),
        }
    }

    /// Records one more batch of `slices` slices or patches; `loss` is none if its step was skipped.
    pub fn record_step(&mut self, loss: Option<f64>, slices: u64) {
        let within = self.within.get_or_insert_default();
        within.batches += 1;
        within.slices += slices;
        match loss {
            Some(loss) => {
                within.loss_sum += loss;
                within.steps_taken += 1;
                self.bad_steps = 0;
            }
            None => self.bad_steps += 1,
        }
    }

    /// Mean loss of the steps of the current epoch; NaN if no step was taken.
    pub fn mean_loss(&self) -> f64 {
        let within = self.within.as_ref();
        within.map_or(f64::NAN, |within| {
            within.loss_sum / f64::from(within.steps_taken)
        })
    }

    /// Records one more epoch; returns true if it is the best so far. While validation Dice is undefined, the last
    /// epoch is the best, and neither the plateau schedule nor early stopping applies.
    pub fn record_epoch(
        &mut self,
        validation: &Validation,
        training: &TrainingConfig,
        out_of_time: bool,
    ) -> bool {
        self.epoch += 1;
        self.within = None;
        self.last_validation = Some(validation.clone());
        let best = self.best.and_then(|(_, dice)| dice);
        let is_best = match (validation.dice, best) {
            (Some(dice), Some(best)) => dice > best,
            _ => true,
        };
        if is_best {
            self.best = Some((self.epoch, validation.dice));
            self.best_validation = Some(validation.clone());
        }
        let stops_early = validation.dice.is_some_and(|dice| {
            self.plateau.observe(dice, &training.plateau);
            self.early_stopping.observe(dice, &training.early_stopping)
        });
        self.ended = if out_of_time {
            Some(StopReason::TimeLimit)
        } else if self.epoch >= training.epochs {
            Some(StopReason::AllEpochsDone)
        } else if stops_early {
            Some(StopReason::EarlyStopping)
        } else {
            None
        };
        is_best
    }
}

/// Why a training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    AllEpochsDone,
    #[serde(rename = "nothing_gained")]
    EarlyStopping,
    /// A resumed run continues from here.
    #[serde(rename = "time_is_up")]
    TimeLimit,
}

impl std::fmt::Display for StopReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::AllEpochsDone => "all epochs done",
            Self::EarlyStopping => "early stopping",
            Self::TimeLimit => "time limit reached",
        })
    }
}
