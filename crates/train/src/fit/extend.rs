//! A run that goes on to another number of epochs than it was to have.

use super::job::FitJob;
use ctseg_base::progress::Observer;
use ctseg_base::{Error, Result};
use ctseg_core::recipe::{Recipe, Schedule};
use ctseg_core::run::folder::RunFolder;
use ctseg_core::run::history;

/// Opens the folds of `run`, which its recipe gave `before.training.epochs` epochs, for those of the job's recipe; what
/// is to be said of that, nothing where they are as many.
///
/// # Errors
/// A fold that has done as many epochs already; checkpoints that cannot be used.
pub(super) fn extended(
    job: &FitJob,
    run: &RunFolder,
    before: &Recipe,
    observer: &dyn Observer,
) -> Result<Vec<String>> {
    let training = &job.recipe.training;
    let (was, is) = (before.training.epochs, training.epochs);
    if was == is {
        return Ok(Vec::new());
    }
    let history = history::read(run.path())?;
    let folds = job.recipe.trained_folds();
    let done = |fold: usize| {
        let lines = history.get(&format!("fold {fold}"));
        lines.and_then(|lines| lines.iter().rev().find(|line| !line.broken_off))
    };
    for fold in &folds {
        if let Some(line) = done(*fold).filter(|line| line.epoch >= is) {
            return Err(Error::usage(format!(
                "--epochs {is}: fold {fold} has done {} epochs already; expected more, counted from the run's first epoch",
                line.epoch
            )));
        }
    }
    let schedule = match training.schedule {
        Schedule::Plateau => "the plateau schedule goes on from the present rate".to_owned(),
        _ => format!("the learning rate follows the schedule for {is} epochs from here on"),
    };
    let mut said = vec![format!(
        "the run goes on to {is} epochs instead of {was}: {schedule}"
    )];
    for fold in folds {
        let checkpoints = run.checkpoints(fold);
        let warn = |line: &str| observer.warn(&format!("fold {fold}: {line}"));
        let Some(mut saved) = checkpoints.load_last(&warn)? else {
            continue;
        };
        if saved.progress.ended.take().is_some() {
            saved.progress.early_stopping.wait_anew();
            checkpoints.save_last(&saved)?;
        }
        if let Some(last) = done(fold) {
            said.push(format!(
                "fold {fold}: epochs {} to {is} follow; learning rate {:.1e} after {:.1e} in epoch {}",
                last.epoch + 1,
                saved.progress.learning_rate(training),
                last.learning_rate,
                last.epoch
            ));
        }
    }
    Ok(said)
}
