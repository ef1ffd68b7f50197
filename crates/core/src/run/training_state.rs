//! How far a training has come, and what decides how it goes on.

use serde::{Deserialize, Serialize};

use super::schedule::{Course, EarlyStopping, ReduceOnPlateau};
use super::validation::Validation;
use crate::recipe::keep::Keep;
use crate::recipe::{Schedule, TrainingConfig};

/// Where a training stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Epochs that are done.
    pub epoch: usize,
    pub optimiser_steps: u64,
    pub plateau: ReduceOnPlateau,
    pub early_stopping: EarlyStopping,
    /// The best epoch so far and its validation Dice, which may be undefined; none before the first validation.
    pub best: Option<(usize, Option<f64>)>,
    /// All that was measured in the best epoch.
    #[serde(default)]
    pub best_validation: Option<Validation>,
    /// The same for the epoch that was done last.
    #[serde(default)]
    pub last_validation: Option<Validation>,
    /// Seconds of training so far, over all sessions.
    pub seconds: f64,
    /// Why training ended, once it has.
    pub ended: Option<Ended>,
    /// Steps left out in a row up to now, because their gradient was not finite.
    #[serde(default)]
    pub bad_steps: usize,
    /// How far the epoch under way has come; none between epochs.
    #[serde(default)]
    pub within: Option<EpochPosition>,
}

/// How far an epoch has come.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct EpochPosition {
    /// Batches that were shown.
    pub batches: u64,
    /// Slices or patches in them.
    pub slices: u64,
    /// Steps that were taken, and the sum of their losses.
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
        let course = Course {
            first: training.optimiser.learning_rate,
            epochs: training.epochs,
            warm_up: training.warmup_epochs,
        };
        match training.schedule {
            Schedule::Plateau => self.plateau.learning_rate(),
            Schedule::Cosine => course.cosine(self.epoch),
            Schedule::Poly => course.poly(self.epoch),
            Schedule::OneCycle => course.one_cycle(self.epoch),
        }
    }

    /// The epoch whose weights are kept so far and its validation Dice, which may be undefined; none before the first
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

    /// Where the training stands, in words.
    pub fn place(&self) -> String {
        match &self.within {
            Some(within) => format!("epoch {}, batch {}", self.epoch + 1, within.batches),
            None => format!("after epoch {}", self.epoch),
        }
    }

    /// Takes in one more epoch; true if it is the best so far. Where validation Dice is undefined the last epoch is the
    /// best, and neither the plateau schedule nor early stopping has a say.
    pub fn take_in(
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
        let gained_nothing = validation.dice.is_some_and(|dice| {
            self.plateau.observe(dice, &training.plateau);
            self.early_stopping.observe(dice, &training.early_stopping)
        });
        self.ended = if out_of_time {
            Some(Ended::TimeIsUp)
        } else if self.epoch >= training.epochs {
            Some(Ended::AllEpochsDone)
        } else if gained_nothing {
            Some(Ended::NothingGained)
        } else {
            None
        };
        is_best
    }
}

/// Why a training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    AllEpochsDone,
    NothingGained,
    /// A resumed run goes on from here.
    TimeIsUp,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::AllEpochsDone => "all epochs done",
            Self::NothingGained => "nothing gained for too long",
            Self::TimeIsUp => "time is up",
        })
    }
}
