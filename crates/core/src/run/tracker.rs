//! Experiment tracking: the run folder always records a run; other trackers are optional.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::checkpoint::Progress;
use super::validation::Validation;
use ctseg_base::progress::Observer;
use ctseg_base::{Error, Result};

/// Receives a run's events. All methods may be called more than once for the same event: a resumed run starts
/// again, and logs an epoch again if a kill came before its checkpoint.
pub trait Tracker: Sync {
    /// A run starts or resumes; later calls belong to it until it ends.
    fn run_started(&self, _run: &RunIdentity) -> Result<()> {
        Ok(())
    }

    /// One epoch of one network has ended.
    fn log_epoch(&self, record: &EpochRecord) -> Result<()>;

    /// Anything else to record.
    fn log_event(&self, _event: &Event) -> Result<()> {
        Ok(())
    }

    /// The current run has ended, with any outcome.
    fn run_ended(&self, _run: &RunIdentity, _outcome: &Outcome) -> Result<()> {
        Ok(())
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Finished,
    /// Stopped on request; can be resumed.
    Interrupted,
    /// The reason, one line.
    Failed(String),
}

impl Outcome {
    pub fn of<T>(result: &Result<T>) -> Self {
        match result {
            Ok(_) => Self::Finished,
            Err(Error::Interrupted(_)) => Self::Interrupted,
            Err(error) => Self::Failed(error.to_string()),
        }
    }
}

/// An event other than an epoch.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Constant values by name: the recipe, flattened with dots.
    Parameters(Vec<(String, String)>),
    /// Tags by name; a later value replaces an earlier one.
    Tags(Vec<(String, String)>),
    /// Metrics, steps ascending. `network` as in [`EpochRecord`]; none for the whole run.
    Metrics {
        network: Option<String>,
        points: Vec<Point>,
    },
    /// A file or a folder with its content, uploaded to the artifact folder `to` (empty: the root). It is
    /// read at upload, which may be later.
    Artifact {
        path: PathBuf,
        to: String,
    },
    Dataset(DatasetInput),
    Model(TrainedModel),
}

/// Metrics at one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Optimiser steps so far, from 1; 0 for metrics measured once.
    pub step: u64,
    /// Milliseconds since 1970 (UTC).
    pub time_ms: i64,
    /// By name; all finite.
    pub values: Vec<(String, f64)>,
}

impl Point {
    /// Metrics at the current time; non-finite values are left out.
    pub fn now(step: u64, mut values: Vec<(String, f64)>) -> Self {
        values.retain(|(_, value)| value.is_finite());
        Self {
            step,
            time_ms: jiff::Timestamp::now().as_millisecond(),
            values,
        }
    }
}

/// A dataset used by a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetInput {
    pub name: String,
    /// Hash of its content.
    pub digest: String,
    /// Its path.
    pub source: String,
    /// Such as `training`.
    pub context: String,
    pub cases: usize,
}

/// A model produced by a run.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainedModel {
    /// The bundle's folder.
    pub bundle: PathBuf,
    /// Checksum of the whole bundle, as in the sidecars of predictions.
    pub sha256: String,
    /// The name to register it under.
    pub name: String,
    /// Names of its structures, by label value.
    pub structures: Vec<String>,
    /// Spacing of the last stage's input.
    pub spacing_mm: Vec<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunIdentity<'a> {
    /// Unique in its folder.
    pub name: &'a str,
    pub folder: &'a Path,
    /// The sweep's name, if the run is a trial of one.
    pub parent: Option<&'a str>,
}

#[derive(Debug, Clone, Copy)]
pub struct EpochRecord<'a> {
    /// Such as `fold 0`.
    pub network: &'a str,
    /// Names of the network's structures, in the order of all values per structure.
    pub structures: &'a [String],
    /// Progress after the epoch.
    pub progress: &'a Progress,
    pub mean_loss: f64,
    pub learning_rate: f64,
    pub validation: &'a Validation,
    /// The same on some of the training cases, if measured.
    pub training: Option<&'a Validation>,
    /// Whether the time limit interrupted the epoch; a resumed run logs it again.
    pub interrupted: bool,
}

/// The run folder and other trackers; errors of the others are only warned about, each once.
pub struct Trackers<'a> {
    folder: &'a dyn Tracker,
    others: &'a [&'a dyn Tracker],
    observer: &'a dyn Observer,
    /// Warnings already given.
    warned: Mutex<BTreeSet<String>>,
}

impl<'a> Trackers<'a> {
    pub fn new(
        folder: &'a dyn Tracker,
        others: &'a [&'a dyn Tracker],
        observer: &'a dyn Observer,
    ) -> Self {
        Self {
            folder,
            others,
            observer,
            warned: Mutex::default(),
        }
    }

    fn for_each(&self, call: &dyn Fn(&dyn Tracker) -> Result<()>) -> Result<()> {
        call(self.folder)?;
        for other in self.others {
            if let Err(error) = call(*other) {
                self.warn_once(error.to_string());
            }
        }
        Ok(())
    }

    fn warn_once(&self, line: String) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.insert(line.clone()) {
            self.observer.warn(&line);
        }
    }
}

impl Tracker for Trackers<'_> {
    fn run_started(&self, run: &RunIdentity) -> Result<()> {
        self.for_each(&|tracker| tracker.run_started(run))
    }

    fn log_epoch(&self, record: &EpochRecord) -> Result<()> {
        self.for_each(&|tracker| tracker.log_epoch(record))
    }

    fn log_event(&self, event: &Event) -> Result<()> {
        self.for_each(&|tracker| tracker.log_event(event))
    }

    fn run_ended(&self, run: &RunIdentity, outcome: &Outcome) -> Result<()> {
        self.for_each(&|tracker| tracker.run_ended(run, outcome))
    }
}
