//! Where the numbers of a run are recorded. The run folder is the one that always is; others join it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::checkpoint::Progress;
use super::validation::Validation;
use ctseg_base::progress::Observer;
use ctseg_base::{Error, Result};

/// Receives a run's numbers as they come. All methods may be called more than once for the same thing: a run
/// that is resumed begins again, and tells again of an epoch whose end a kill came before.
pub trait Tracker: Sync {
    /// A run begins or goes on; all that follows is of this run until it has ended.
    fn begun(&self, _run: &RunIdentity) -> Result<()> {
        Ok(())
    }

    /// One epoch of one network is over.
    fn epoch(&self, record: &EpochRecord) -> Result<()>;

    /// Something beside the epochs that is worth keeping.
    fn happened(&self, _event: &Event) -> Result<()> {
        Ok(())
    }

    /// The run that began last is over, whatever came of it.
    fn ended(&self, _run: &RunIdentity, _outcome: &Outcome) -> Result<()> {
        Ok(())
    }
}

/// How a run came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Finished,
    /// Somebody asked it to stop; it can go on.
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

/// What is told of a run beside its epochs.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Values that never change, by name: the recipe, flattened with dots.
    Parameters(Vec<(String, String)>),
    /// Facts about the run, by name; a later one of the same name replaces the earlier.
    Tags(Vec<(String, String)>),
    /// Values by name, steps ascending. `network` as in [`EpochRecord`], none for the run as a whole.
    Metrics {
        network: Option<String>,
        points: Vec<Point>,
    },
    /// A file, or a folder by its name with all that is in it, to be shown in the folder `to` (empty: the top). It is
    /// read when it is sent, which may be later.
    Artifact {
        path: PathBuf,
        to: String,
    },
    Dataset(DatasetUsed),
    Model(ModelMade),
}

/// What was measured at one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Steps that the network has taken, from 1 on; 0 for what is measured once.
    pub step: u64,
    /// Milliseconds since 1970 (UTC).
    pub time_ms: i64,
    /// By name; all are finite.
    pub values: Vec<(String, f64)>,
}

impl Point {
    /// What was measured at this moment; values that are not finite are left out.
    pub fn now(step: u64, mut values: Vec<(String, f64)>) -> Self {
        values.retain(|(_, value)| value.is_finite());
        Self {
            step,
            time_ms: jiff::Timestamp::now().as_millisecond(),
            values,
        }
    }
}

/// Data that went into a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetUsed {
    pub name: String,
    /// Of its content.
    pub digest: String,
    /// Where it lies.
    pub source: String,
    /// Such as `training`.
    pub context: String,
    pub cases: usize,
}

/// A model that a run made.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelMade {
    /// The bundle's folder.
    pub bundle: PathBuf,
    /// Of the whole bundle, as predictions name it.
    pub sha256: String,
    /// The name that it is registered under.
    pub name: String,
    /// Names of its structures, in order of their labels.
    pub structures: Vec<String>,
    /// Of the last stage's input.
    pub spacing_mm: Vec<f64>,
}

/// Which run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunIdentity<'a> {
    /// Unique among the runs of a folder.
    pub name: &'a str,
    pub folder: &'a Path,
    /// The name of the sweep that the run is a trial of.
    pub parent: Option<&'a str>,
}

/// One epoch of one network.
#[derive(Debug, Clone, Copy)]
pub struct EpochRecord<'a> {
    /// Such as `fold 0`.
    pub network: &'a str,
    /// Names of the structures that the network marks, in the order of all that is told per structure.
    pub structures: &'a [String],
    /// After the epoch.
    pub progress: &'a Progress,
    pub mean_loss: f64,
    pub learning_rate: f64,
    pub validation: &'a Validation,
    /// The same measured on some of the cases that the network is trained on, where it was.
    pub training: Option<&'a Validation>,
    /// Whether time was up before its end; a run that goes on tells of it again.
    pub broken_off: bool,
}

/// A run folder and those that join it: what goes wrong with these is said, once, and ends nothing.
pub struct Trackers<'a> {
    folder: &'a dyn Tracker,
    others: &'a [&'a dyn Tracker],
    observer: &'a dyn Observer,
    /// What was said.
    said: Mutex<BTreeSet<String>>,
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
            said: Mutex::default(),
        }
    }

    fn tell(&self, what: &dyn Fn(&dyn Tracker) -> Result<()>) -> Result<()> {
        what(self.folder)?;
        for other in self.others {
            if let Err(error) = what(*other) {
                self.warn_once(error.to_string());
            }
        }
        Ok(())
    }

    fn warn_once(&self, line: String) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.insert(line.clone()) {
            self.observer.warn(&line);
        }
    }
}

impl Tracker for Trackers<'_> {
    fn begun(&self, run: &RunIdentity) -> Result<()> {
        self.tell(&|tracker| tracker.begun(run))
    }

    fn epoch(&self, record: &EpochRecord) -> Result<()> {
        self.tell(&|tracker| tracker.epoch(record))
    }

    fn happened(&self, event: &Event) -> Result<()> {
        self.tell(&|tracker| tracker.happened(event))
    }

    fn ended(&self, run: &RunIdentity, outcome: &Outcome) -> Result<()> {
        self.tell(&|tracker| tracker.ended(run, outcome))
    }
}
