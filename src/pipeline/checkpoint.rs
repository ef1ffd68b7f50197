//! Checkpoints of a training: one file holds everything, so that it is whole or not there at all.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::recipe::{Schedule, TrainingConfig};
use super::schedule::{Course, EarlyStopping, Keep, ReduceOnPlateau};
use super::validation::Validation;
use crate::error::{Error, Result};
use crate::tensors::weights::{NamedTensors, below_prefix, prefixed, read_tensors, write_tensors};

/// Where a training stands after an epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Epochs that are done.
    pub epoch: usize,
    pub optimiser_steps: u64,
    pub plateau: ReduceOnPlateau,
    pub early_stopping: EarlyStopping,
    /// Validation Dice of the best epoch so far, and which it was; none before the first validation.
    pub best: Option<(usize, f64)>,
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

    /// The epoch whose weights are kept so far, and its validation Dice; none before the first validation.
    pub fn kept(&self, keep: Keep) -> Option<(usize, f64)> {
        match keep {
            Keep::Best => self.best,
            Keep::Last => self
                .last_validation
                .as_ref()
                .map(|last| (self.epoch, last.dice)),
        }
    }

    /// Takes in one more epoch; true if it is the best so far.
    pub fn take_in(
        &mut self,
        validation: &Validation,
        training: &TrainingConfig,
        out_of_time: bool,
    ) -> bool {
        self.epoch += 1;
        self.plateau.observe(validation.dice, &training.plateau);
        self.last_validation = Some(validation.clone());
        let is_best = self.best.is_none_or(|(_, best)| validation.dice > best);
        if is_best {
            self.best = Some((self.epoch, validation.dice));
            self.best_validation = Some(validation.clone());
        }
        let gained_nothing = self
            .early_stopping
            .observe(validation.dice, &training.early_stopping);
        self.ended = if self.epoch >= training.epochs {
            Some(Ended::AllEpochsDone)
        } else if gained_nothing {
            Some(Ended::NothingGained)
        } else if out_of_time {
            Some(Ended::TimeIsUp)
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

/// A training's state: weights, optimiser, progress. In `best` the weights are those that were validated
/// (averaged, where an average is kept), and the optimiser's part is empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    pub network: NamedTensors,
    pub optimiser: NamedTensors,
    pub progress: Progress,
}

/// The folder of one fold's checkpoints: `last`, `previous` and `best`, each `.safetensors`.
#[derive(Debug, Clone)]
pub struct CheckpointFolder(PathBuf);

impl CheckpointFolder {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub fn last(&self) -> PathBuf {
        self.0.join("last.safetensors")
    }

    pub fn previous(&self) -> PathBuf {
        self.0.join("previous.safetensors")
    }

    pub fn best(&self) -> PathBuf {
        self.0.join("best.safetensors")
    }

    /// Makes `checkpoint` the last one; the one before stays as `previous`. At no moment is there no last
    /// checkpoint once there was one.
    pub fn save_last(&self, checkpoint: &Checkpoint) -> Result<()> {
        let last = self.last();
        if last.exists() {
            // A second name for the old file first, then the new file over its first name.
            let spare = self.0.join(".ctseg-previous");
            let _ = std::fs::remove_file(&spare);
            let linked = std::fs::hard_link(&last, &spare)
                .or_else(|_| std::fs::copy(&last, &spare).map(drop));
            linked.map_err(Error::io(&spare, "keep the previous checkpoint as"))?;
            std::fs::rename(&spare, self.previous()).map_err(Error::io(
                self.previous(),
                "keep the previous checkpoint as",
            ))?;
        }
        write(&last, checkpoint)
    }

    /// Makes `checkpoint` the best one.
    pub fn save_best(&self, checkpoint: &Checkpoint) -> Result<()> {
        write(&self.best(), checkpoint)
    }

    /// The last checkpoint; if it is damaged, the one before takes its place. `None` if there is none.
    pub fn load_last(&self) -> Result<Option<Checkpoint>> {
        if !self.last().exists() && !self.previous().exists() {
            return Ok(None);
        }
        let damaged = match Checkpoint::load(&self.last()) {
            Ok(checkpoint) => return Ok(Some(checkpoint)),
            Err(error) => error,
        };
        let before = Checkpoint::load(&self.previous()).map_err(|_| damaged)?;
        std::fs::rename(self.previous(), self.last()).map_err(Error::io(
            self.last(),
            "put the previous checkpoint in the place of",
        ))?;
        Ok(Some(before))
    }
}

impl Checkpoint {
    /// Reads a checkpoint file.
    pub fn load(path: &Path) -> Result<Self> {
        let (tensors, metadata) = read_tensors(path)?;
        let progress = serde_json::from_str(&metadata)
            .map_err(|error| Error::file(path, format!("not a checkpoint of ctseg: {error}")))?;
        Ok(Self {
            network: below_prefix("network.", &tensors),
            optimiser: below_prefix("optimiser.", &tensors),
            progress,
        })
    }
}

fn write(path: &Path, checkpoint: &Checkpoint) -> Result<()> {
    let mut tensors = NamedTensors::new();
    tensors.extend(prefixed("network.", checkpoint.network.clone()));
    tensors.extend(prefixed("optimiser.", checkpoint.optimiser.clone()));
    let progress = serde_json::to_string(&checkpoint.progress)
        .map_err(|error| Error::file(path, format!("cannot write the progress: {error}")))?;
    write_tensors(path, &tensors, &progress)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensors::weights::HostTensor;

    fn checkpoint(epoch: usize) -> Checkpoint {
        let tensor = HostTensor {
            shape: vec![2],
            values: vec![epoch as f32, 0.1 + 0.2],
        };
        Checkpoint {
            network: NamedTensors::from([("head.weight".to_owned(), tensor.clone())]),
            optimiser: NamedTensors::from([("m.head.weight".to_owned(), tensor)]),
            progress: Progress {
                epoch,
                optimiser_steps: 7,
                plateau: ReduceOnPlateau::new(1e-3 / 3.0),
                early_stopping: EarlyStopping::new(),
                best: Some((1, 0.1 + 0.2)),
                best_validation: None,
                last_validation: None,
                seconds: 1.5,
                ended: None,
            },
        }
    }

    #[test]
    fn the_one_before_steps_in_for_a_damaged_last() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = CheckpointFolder::new(folder.path());
        assert_eq!(checkpoints.load_last().unwrap(), None);
        for epoch in 0..3 {
            checkpoints.save_last(&checkpoint(epoch)).unwrap();
        }
        assert_eq!(checkpoints.load_last().unwrap(), Some(checkpoint(2)));
        assert_eq!(
            Checkpoint::load(&checkpoints.previous()).unwrap(),
            checkpoint(1)
        );
        std::fs::write(checkpoints.last(), b"torn").unwrap();
        assert_eq!(checkpoints.load_last().unwrap(), Some(checkpoint(1)));
        assert_eq!(
            Checkpoint::load(&checkpoints.last()).unwrap(),
            checkpoint(1)
        );
        std::fs::write(checkpoints.last(), b"torn too").unwrap();
        let error = checkpoints.load_last().unwrap_err().to_string();
        assert!(error.contains("last.safetensors"), "{error}");
    }
}
