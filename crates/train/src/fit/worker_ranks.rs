//! The ranks other than 0: they train together with it and write nothing.

use std::path::PathBuf;
use std::time::Instant;

use super::folds::{FoldTrainer, TrainingCases};
use super::job::{FitJob, FitSummary};
use ctseg_base::Result;
use ctseg_base::progress::{Observer, Task};
use ctseg_core::dataset::PredefinedSplits;
use ctseg_engine::distributed::process_group::ProcessGroup;

/// Trains all folds of the run in the folder `run` together with the other ranks.
///
/// # Errors
/// As [`super::fit`].
pub(super) fn train_as_worker(
    job: &FitJob,
    run: PathBuf,
    splits: &PredefinedSplits,
    observer: &dyn Observer,
    started: Instant,
) -> Result<FitSummary> {
    let observer = &WorkerObserver::of(&job.group, observer);
    let cases = TrainingCases::find(job, Ok(()), observer)?;
    let trainer = FoldTrainer {
        job,
        source: &cases.source,
        splits,
        pretrained: None,
        observer,
        reporter: None,
        started,
    };
    let trained = trainer.train_folds()?.into_iter();
    let folds = trained.map(|trained| trained.summary).collect();
    let mut summary = FitSummary::new(run, &job.model, folds);
    summary.seconds = started.elapsed().as_secs_f64();
    Ok(summary)
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
