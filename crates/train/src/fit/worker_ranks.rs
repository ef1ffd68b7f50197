//! The ranks other than 0: they train together with it and write nothing.

use std::path::PathBuf;
use std::time::Instant;

use super::case_source::agreed_source;
use super::folds::{deadline, training_job};
use super::job::{FitJob, FitSummary};
use crate::trainer::job::TrainingJob;
use crate::trainer::train;
use ctseg_base::Result;
use ctseg_base::cancel::catch_panic;
use ctseg_base::progress::{Observer, Task};
use ctseg_core::dataset::PredefinedSplits;
use ctseg_core::run::checkpoint::CheckpointFolder;
use ctseg_core::run::tracker::{EpochRecord, Tracker};
use ctseg_engine::distributed::process_group::ProcessGroup;

/// The run's folder and folds, as rank 0 broadcasts them.
pub(super) struct SharedRun {
    pub path: PathBuf,
    pub splits: PredefinedSplits,
}

/// Trains all folds of `run` together with the other ranks.
///
/// # Errors
/// As [`super::fit`].
pub(super) fn train_as_worker(
    job: &FitJob,
    run: SharedRun,
    observer: &dyn Observer,
    started: Instant,
) -> Result<FitSummary> {
    let observer = &WorkerObserver::of(&job.group, observer);
    job.group.all_ok(Ok(()))?; // rank 0 opens the run
    let source = agreed_source(job, Ok(()), observer)?.cases;
    let mut folds = Vec::new();
    for (index, fold) in job.recipe.trained_folds().iter().enumerate() {
        let deadline = deadline(job, index, started);
        let split = job.dataset.predefined_split(&run.splits, *fold)?;
        let unused = CheckpointFolder::new(&run.path);
        let training = TrainingJob {
            deadline,
            ..training_job(job, &source, *fold, &split, unused)
        };
        job.group.all_ok(Ok(()))?; // rank 0 checks the run's folder
        let trained = catch_panic(|| train(&training, observer, &NoTracker))?;
        folds.push((*fold, trained.progress));
    }
    job.group.mark_finished();
    job.group.shutdown()?;
    Ok(FitSummary {
        run: run.path,
        model: job.model.clone(),
        folds,
        roi: None,
        out_of_fold: None,
        postprocessing: None,
        diagnoses: Vec::new(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Passes on only warnings, with the rank; rank 0 reports everything else.
pub struct WorkerObserver<'a> {
    rank: usize,
    observer: &'a dyn Observer,
}

impl<'a> WorkerObserver<'a> {
    pub fn of(group: &ProcessGroup, observer: &'a dyn Observer) -> Self {
        Self {
            rank: group.rank(),
            observer,
        }
    }
}

impl Observer for WorkerObserver<'_> {
    fn info(&self, _: &str) {}

    fn warn(&self, line: &str) {
        self.observer.warn(&format!("rank {}: {line}", self.rank));
    }

    fn task(&self, _: &str, _: u64, _: &'static str) -> Box<dyn Task> {
        Box::new(ctseg_base::progress::Silent)
    }
}

struct NoTracker;

impl Tracker for NoTracker {
    fn log_epoch(&self, _: &EpochRecord) -> Result<()> {
        Ok(())
    }
}
