//! Changes the number of epochs of a resumed run.

use super::job::FitJob;
use ctseg_base::progress::Observer;
use ctseg_base::{Error, Result};
use ctseg_core::recipe::{Recipe, Schedule};
use ctseg_core::run::folder::RunFolder;
use ctseg_core::run::history;

/// Extends the folds of `run` from `before.training.epochs` epochs to those of the job's recipe. Returns notes for the
/// log, none if the number is the same.
///
/// # Errors
/// A fold has done that many epochs already; unusable checkpoints.
pub(super) fn change_epochs(
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
        lines.and_then(|lines| lines.iter().rev().find(|line| !line.interrupted))
    };
    for fold in &folds {
        if let Some(line) = done(*fold).filter(|line| line.epoch >= is) {
            return Err(Error::usage(format!(
                "--epochs {is}: fold {fold} has done {} epochs already; expected a larger total number of epochs",
                line.epoch
            )));
        }
    }
    let schedule = match training.schedule {
        Schedule::Plateau => {
            "the plateau schedule continues from the current learning rate".to_owned()
        }
        _ => format!("the learning rate follows the schedule for {is} epochs from now on"),
    };
    let mut notes = vec![format!(
        "resuming to {is} epochs instead of {was}: {schedule}"
    )];
    for fold in folds {
        let checkpoints = run.checkpoints(fold);
        let warn = |line: &str| observer.warn(&format!("fold {fold}: {line}"));
        let Some(mut saved) = checkpoints.load_last(&warn)? else {
            continue;
        };
        if saved.progress.ended.take().is_some() {
            saved.progress.early_stopping.reset_patience();
            checkpoints.save_last(&saved)?;
        }
        if let Some(last) = done(fold) {
            notes.push(format!(
                "fold {fold}: epochs {} to {is} follow; learning rate {:.1e}, after {:.1e} in epoch {}",
                last.epoch + 1,
                saved.progress.learning_rate(training),
                last.learning_rate,
                last.epoch
            ));
        }
    }
    Ok(notes)
}
