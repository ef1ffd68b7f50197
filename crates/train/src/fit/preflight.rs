//! What is looked at before there is a run, and the run's folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::data::{CheckedData, check_labels, run_data};
use super::extend::extended;
use super::job::FitJob;
use crate::choose_postprocessing::check_names;
use crate::data::case_source::CaseSource;
use crate::data::sampler::mirrored_maps;
use crate::data::stage_loss::stage_loss;
use ctseg_base::cancel::unless_stopped;
use ctseg_base::progress::Observer;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::content::DatasetContent;
use ctseg_core::dataset::{CheckDepth, Dataset, grouped};
use ctseg_core::model::bundle::Bundle;
use ctseg_core::model::known_cases::KnownCases;
use ctseg_core::model::pretrained::Beginning;
use ctseg_core::recipe::output_maps::output_maps;
use ctseg_core::recipe::{Recipe, Region};
use ctseg_core::run::data::RunData;
use ctseg_core::run::folder::{RunFolder, RunSettings};
use ctseg_engine::weights::network_tensors;

/// What all processes of a team must have alike.
pub(super) fn wishes(job: &FitJob) -> Result<String> {
    let cases: Vec<&str> = job
        .dataset
        .cases
        .iter()
        .map(|case| case.id.as_str())
        .collect();
    Ok(format!(
        "{}\nseed {}, {}, {}, {:?}, {cases:?}, {:?}, {:?}",
        job.recipe.to_toml()?,
        job.seed,
        job.compute.precision,
        job.compute.choice.is_libtorch(),
        job.max_time,
        job.dataset.splits.as_ref().map(|given| &given.folds),
        job.dataset.reading,
    ))
}

/// A run that may begin or go on.
pub(super) struct Ready {
    pub run: RunFolder,
    pub began: RunSettings,
    pub data: RunData,
    /// To be said once the run's log is open.
    pub notes: Vec<String>,
}

/// Looks at everything that can be wrong before there is a run, and opens it.
pub(super) fn checked(job: &FitJob, observer: &dyn Observer) -> Result<Ready> {
    let recipe = &job.recipe;
    stage_loss(recipe, &job.dataset)?;
    check_names(recipe, &job.dataset.structures)?;
    let values = job.dataset.structures.iter().map(|s| s.value).collect();
    mirrored_maps(&CaseSource::new(
        &job.dataset,
        recipe,
        values,
        BTreeMap::new(),
    ))?;
    if job.resume.is_none() && job.from.is_none() && recipe.training.freeze_encoder_levels > 0 {
        return Err(Error::usage(
            "training.freeze_encoder_levels freezes the weights of another model: name it with --from MODEL",
        ));
    }
    let data = match &job.trial {
        Some(trial) => trial.data.clone(),
        None => {
            Bundle::check_target(&job.model, recipe.stage, &job.dataset.structures)?;
            if job.resume.is_none() {
                known_before_reading(job)?;
            }
            let content = check_dataset(&job.dataset, job.stop, observer)?;
            let data = CheckedData {
                dataset: &job.dataset,
                content: &content,
                place: &job.dataset_path,
            };
            let folds = (recipe.folds, job.seed);
            run_data(&data, folds, job.resume.as_deref(), observer)?
        }
    };
    for fold in recipe.trained_folds() {
        job.dataset.given_split(&data.splits, fold)?;
    }
    check_labels(recipe, &job.dataset, &data, observer)?;
    let stage1_sha256 = check_stage_one(recipe, &job.model, &data.content)?;
    if job.resume.is_none() {
        check_beginning(job)?;
    }
    open_run(job, (data, stage1_sha256), observer)
}

/// What can be said before any voxel is read.
///
/// # Errors
/// The recipe needs a stage 1 and the model has none; there are too few patients for the folds.
fn known_before_reading(job: &FitJob) -> Result<()> {
    let recipe = &job.recipe;
    if recipe.region != Region::Whole {
        Bundle::open(&job.model)?.needed_stage(1)?;
    }
    for fold in recipe.trained_folds() {
        job.dataset.split(recipe.folds, fold, job.seed)?;
    }
    Ok(())
}

/// The checksum of the model's stage 1, where the recipe needs one.
///
/// # Errors
/// There is none, or it has no network that may judge one of the cases.
pub fn check_stage_one(
    recipe: &Recipe,
    model: &Path,
    content: &DatasetContent,
) -> Result<Option<String>> {
    if recipe.region == Region::Whole {
        return Ok(None);
    }
    let bundle = Bundle::open(model)?;
    let known = KnownCases::new(bundle.needed_stage(1)?);
    for case in &content.cases {
        known.fair_fold(&case.case, &case.image_sha256)?;
    }
    Ok(bundle.stage_sha256(1).map(str::to_owned))
}

/// An error where the weights to begin with are not there or do not fit.
fn check_beginning(job: &FitJob) -> Result<()> {
    let Some(beginning) = begun_from(job, &job.from)? else {
        return Ok(());
    };
    let recipe = &job.recipe;
    let structures = job.dataset.structures.iter();
    let values: Vec<u16> = structures.map(|structure| structure.value).collect();
    let outputs = output_maps(recipe, &values).len();
    let device = &job.compute.device;
    let fresh = recipe.network.init(recipe.channels(), outputs, device)?;
    let fresh = network_tensors(&fresh)?;
    for index in 0..recipe.trained_folds().len() {
        let taken = beginning.taken_over(index, fresh.clone())?;
        taken.refuse_frozen_anew(recipe.training.freeze_encoder_levels)?;
    }
    Ok(())
}

pub(super) fn begun_from(job: &FitJob, from: &Option<PathBuf>) -> Result<Option<Beginning>> {
    from.as_deref()
        .map(|path| Beginning::load(path, job.recipe.stage, &job.dataset.structures))
        .transpose()
}

/// The run's folder, and what it began with.
fn open_run(
    job: &FitJob,
    (data, stage1_sha256): (RunData, Option<String>),
    observer: &dyn Observer,
) -> Result<Ready> {
    // Absolute, so that the run can be resumed from any folder.
    let absolute = |path: &Path| std::path::absolute(path).map_err(Error::io(path, "find"));
    let settings = RunSettings {
        dataset: absolute(&job.dataset_path)?,
        data_root: job.data_root.as_deref().map(absolute).transpose()?,
        model: absolute(&job.model)?,
        seed: job.seed,
        from: job.from.as_deref().map(absolute).transpose()?,
        stage1_sha256,
        ctseg_version: env!("CARGO_PKG_VERSION").to_owned(),
        engine: job.compute.to_string(),
        parent: job.trial.map(|trial| trial.parent.to_owned()),
        reading: job.dataset.reading,
    };
    let begun = match &job.trial {
        Some(trial) => Some(trial.folder).filter(|folder| folder.join("run.toml").exists()),
        None => job.resume.as_deref(),
    };
    if let Some(path) = begun {
        return reopened(job, path, &settings, data, observer);
    }
    let run = match &job.trial {
        Some(trial) => RunFolder::create_at(trial.folder, &job.recipe, &settings, &data)?,
        None => RunFolder::create(&job.runs, &job.recipe, &settings, &data)?,
    };
    Ok(Ready {
        run,
        began: settings,
        data,
        notes: Vec::new(),
    })
}

/// The run in the folder at `path`, with its data where `now` says and the epochs of the job's recipe.
fn reopened(
    job: &FitJob,
    path: &Path,
    now: &RunSettings,
    data: RunData,
    observer: &dyn Observer,
) -> Result<Ready> {
    let (run, before, began) = RunFolder::resume(path)?;
    if began.stage1_sha256.is_some() && began.stage1_sha256 != now.stage1_sha256 {
        return Err(Error::file(
            &job.model,
            format!(
                "the model's stage 1 is not the one that {} began with; restore the model, or begin a new run without --resume",
                path.display()
            ),
        ));
    }
    let mut notes = extended(job, &run, &before, observer)?;
    if now.dataset != began.dataset {
        notes.push(format!(
            "the dataset lies in {} now, and was in {} when the run began",
            now.dataset.display(),
            began.dataset.display()
        ));
    }
    let settings = RunSettings {
        dataset: now.dataset.clone(),
        data_root: now.data_root.clone(),
        stage1_sha256: now.stage1_sha256.clone(),
        ..began.clone()
    };
    let mut recipe = before;
    recipe.training.epochs = job.recipe.training.epochs;
    if settings != began || !notes.is_empty() {
        run.update(&recipe, &settings)?;
    }
    if RunData::read(path)?.is_none() {
        data.write(path)?;
    }
    Ok(Ready {
        run,
        began,
        data,
        notes,
    })
}

/// What the dataset holds, with every voxel read. Says everything that is wrong with it, and fails if anything is, or when
/// somebody asks to stop.
pub fn check_dataset(
    dataset: &Dataset,
    stop: &AtomicBool,
    observer: &dyn Observer,
) -> Result<DatasetContent> {
    let task = observer.task("checking the data", dataset.cases.len() as u64, "cases");
    let go_on = || unless_stopped(stop, || "the data was being checked".to_owned());
    let mut report = dataset.check_while(CheckDepth::Voxels, go_on, |_, _| task.advance(1))?;
    drop(task);
    let (warnings, notes): (Vec<_>, Vec<_>) = report
        .notes
        .iter()
        .cloned()
        .partition(|note| note.is_warning);
    for line in grouped(&notes) {
        observer.say(&line);
    }
    for line in grouped(&warnings) {
        observer.warn(&line);
    }
    for problem in &report.problems {
        observer.warn(&problem.to_string());
    }
    let contents = std::mem::take(&mut report.contents);
    report.into_result()?;
    Ok(DatasetContent::new(dataset, contents))
}
