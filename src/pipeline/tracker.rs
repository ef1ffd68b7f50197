//! Where the numbers of a run are recorded. The run folder is the one that always is; others join it.

use std::path::Path;

use super::checkpoint::Progress;
use super::observer::Observer;
use super::validation::Validation;
use crate::error::Result;

/// Receives a run's numbers as they come. All methods may be called more than once for the same thing: a run
/// that is resumed begins again, and tells again of an epoch whose end a kill came before.
pub trait Tracker {
    /// A run begins or goes on; all that follows is of this run until it has ended.
    fn begun(&self, _run: &RunIdentity) -> Result<()> {
        Ok(())
    }

    /// One epoch of one network is over.
    fn epoch(&self, record: &EpochRecord) -> Result<()>;

    /// The run that began last is over, whatever came of it.
    fn ended(&self, _run: &RunIdentity) -> Result<()> {
        Ok(())
    }
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

/// A run folder and those that join it: what goes wrong with these is said and ends nothing.
pub(super) struct Trackers<'a> {
    pub folder: &'a dyn Tracker,
    pub others: &'a [&'a dyn Tracker],
    pub observer: &'a dyn Observer,
}

impl Trackers<'_> {
    fn tell(&self, what: &dyn Fn(&dyn Tracker) -> Result<()>) -> Result<()> {
        what(self.folder)?;
        for other in self.others {
            if let Err(error) = what(*other) {
                self.observer.warn(&error.to_string());
            }
        }
        Ok(())
    }
}

impl Tracker for Trackers<'_> {
    fn begun(&self, run: &RunIdentity) -> Result<()> {
        self.tell(&|tracker| tracker.begun(run))
    }

    fn epoch(&self, record: &EpochRecord) -> Result<()> {
        self.tell(&|tracker| tracker.epoch(record))
    }

    fn ended(&self, run: &RunIdentity) -> Result<()> {
        self.tell(&|tracker| tracker.ended(run))
    }
}
