//! What is looked at before there is a run, and the run's folder.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::job::FitJob;
use crate::choose_postprocessing::check_names;
use crate::data::stage_loss::stage_loss;
use ctseg_base::cancel::unless_stopped;
use ctseg_base::progress::Observer;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::{CheckDepth, Dataset, grouped};
use ctseg_core::model::bundle::Bundle;
use ctseg_core::model::pretrained::Beginning;
use ctseg_core::run::folder::{RunFolder, RunSettings};

/// What all processes of a team must have alike.
pub(super) fn wishes(job: &FitJob) -> Result<String> {
    let cases: Vec<&str> = job
        .dataset
        .cases
        .iter()
        .map(|case| case.id.as_str())
        .collect();
    Ok(format!(
        "{}\nseed {}, {}, {}, {:?}, {cases:?}, {:?}",
        job.recipe.to_toml()?,
        job.seed,
        job.compute.precision,
        job.compute.choice.is_libtorch(),
        job.max_time,
        job.dataset.splits.as_ref().map(|given| &given.folds),
    ))
}

/// Looks at everything that can be wrong before there is a run, and opens it.
pub(super) fn checked(job: &FitJob, observer: &dyn Observer) -> Result<(RunFolder, RunSettings)> {
    let recipe = &job.recipe;
    stage_loss(recipe, &job.dataset)?;
    check_names(recipe, &job.dataset.structures)?;
    for fold in recipe.trained_folds() {
        job.dataset.split(recipe.folds, fold, job.seed)?; // too few patients are known before any voxel is
    }
    if job.trial.is_none() {
        Bundle::check_target(&job.model, recipe.stage, &job.dataset.structures)?;
        check_dataset(&job.dataset, job.stop, observer)?;
    }
    if job.resume.is_none() && job.from.is_none() && recipe.training.freeze_encoder_levels > 0 {
        return Err(Error::usage(
            "training.freeze_encoder_levels freezes the weights of another model: name it with --from MODEL",
        ));
    }
    if job.resume.is_none() {
        begun_from(job, &job.from)?; // what is wrong with it is said before there is a run
    }
    open_run(job)
}

pub(super) fn begun_from(job: &FitJob, from: &Option<PathBuf>) -> Result<Option<Beginning>> {
    from.as_deref()
        .map(|path| Beginning::load(path, job.recipe.stage, &job.dataset.structures))
        .transpose()
}

/// The run's folder, and what it began with.
fn open_run(job: &FitJob) -> Result<(RunFolder, RunSettings)> {
    let folds = || job.dataset.named_splits(job.recipe.folds, job.seed);
    // Absolute, so that the run can be resumed from any folder.
    let absolute = |path: &Path| std::path::absolute(path).map_err(Error::io(path, "find"));
    let settings = RunSettings {
        dataset: absolute(&job.dataset_path)?,
        data_root: job.data_root.as_deref().map(absolute).transpose()?,
        model: absolute(&job.model)?,
        seed: job.seed,
        from: job.from.as_deref().map(absolute).transpose()?,
        ctseg_version: env!("CARGO_PKG_VERSION").to_owned(),
        engine: job.compute.to_string(),
        parent: job.trial.map(|trial| trial.parent.to_owned()),
    };
    if let Some(trial) = &job.trial {
        if trial.folder.join("run.toml").exists() {
            let (run, _, began) = RunFolder::resume(trial.folder)?;
            return Ok((run, began));
        }
        let run = RunFolder::create_at(trial.folder, &job.recipe, &settings, &folds()?)?;
        return Ok((run, settings));
    }
    match &job.resume {
        Some(path) => {
            let (run, _, began) = RunFolder::resume(path)?;
            Ok((run, began))
        }
        None => {
            let run = RunFolder::create(&job.runs, &job.recipe, &settings, &folds()?)?;
            Ok((run, settings))
        }
    }
}

/// Says everything that is wrong with the dataset, and fails if anything is, or when somebody asks to stop.
pub fn check_dataset(dataset: &Dataset, stop: &AtomicBool, observer: &dyn Observer) -> Result<()> {
    let task = observer.task("checking the data", dataset.cases.len() as u64, "cases");
    let go_on = || unless_stopped(stop, || "the data was being checked".to_owned());
    let report = dataset.check_while(CheckDepth::Voxels, go_on, |_, _| task.advance(1))?;
    drop(task);
    for line in grouped(&report.notes) {
        observer.warn(&line);
    }
    for problem in &report.problems {
        observer.warn(&problem.to_string());
    }
    report.into_result().map(drop)
}
