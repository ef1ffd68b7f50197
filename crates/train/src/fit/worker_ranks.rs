//! What the processes of a team do that do not lead it: they train along, and leave nothing behind.

use std::path::Path;
use std::time::Instant;

use super::case_source::source_together;
use super::folds::{deadline, training_job};
use super::job::{FitJob, FitSummary};
use crate::trainer::job::TrainingJob;
use crate::trainer::train;
use ctseg_base::Result;
use ctseg_base::cancel::guarded;
use ctseg_base::progress::{Observer, Task};
use ctseg_core::dataset::GivenSplits;
use ctseg_core::run::checkpoint::CheckpointFolder;
use ctseg_core::run::tracker::{EpochRecord, Tracker};
use ctseg_engine::distributed::process_group::Team;

/// Trains all folds with the others, of the run in `run` with these folds.
///
/// # Errors
/// As [`super::fit`].
pub(super) fn trained(
    job: &FitJob,
    (run, splits): (&Path, &GivenSplits),
    observer: &dyn Observer,
    started: Instant,
) -> Result<FitSummary> {
    let observer = &Along::of(&job.team, observer);
    job.team.together(Ok(()))?; // the first one opens the run
    let (source, _) = source_together(job, Ok(()), observer)?;
    let mut folds = Vec::new();
    for (index, fold) in job.recipe.trained_folds().iter().enumerate() {
        let deadline = deadline(job, index, started);
        let split = job.dataset.given_split(splits, *fold)?;
        let nowhere = CheckpointFolder::new(run);
        let training = TrainingJob {
            deadline,
            ..training_job(job, &source, &split, (*fold, nowhere))
        };
        job.team.together(Ok(()))?; // the first one looks at the run's folder
        let trained = guarded(|| train(&training, observer, &Nobody))?;
        folds.push((*fold, trained.progress));
    }
    job.team.part();
    job.team.end()?;
    Ok(FitSummary {
        run: run.to_path_buf(),
        model: job.model.clone(),
        folds,
        roi: None,
        out_of_fold: None,
        postprocessing: None,
        diagnoses: Vec::new(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Says what the first process does not say already.
pub struct Along<'a> {
    rank: usize,
    observer: &'a dyn Observer,
}

impl<'a> Along<'a> {
    pub fn of(team: &Team, observer: &'a dyn Observer) -> Self {
        Self {
            rank: team.rank(),
            observer,
        }
    }
}

impl Observer for Along<'_> {
    fn say(&self, _: &str) {}

    fn warn(&self, line: &str) {
        self.observer
            .warn(&format!("process {}: {line}", self.rank));
    }

    fn task(&self, _: &str, _: u64, _: &'static str) -> Box<dyn Task> {
        Box::new(ctseg_base::progress::Silent)
    }
}

struct Nobody;

impl Tracker for Nobody {
    fn epoch(&self, _: &EpochRecord) -> Result<()> {
        Ok(())
    }
}
