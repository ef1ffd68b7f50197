//! Checks before a run starts, and the run's folder.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::data::{CheckedData, check_labels, run_data};
use super::extend::change_epochs;
use super::job::FitJob;
use crate::choose_postprocessing::check_names;
use crate::data::case_source::CaseSource;
use crate::data::sampler::mirrored_maps;
use crate::data::stage_loss::stage_loss;
use ctseg_base::cancel::check_stop;
use ctseg_base::progress::Observer;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::content::DatasetContent;
use ctseg_core::dataset::{CheckDepth, Dataset, grouped};
use ctseg_core::model::bundle::Bundle;
use ctseg_core::model::known_cases::KnownCases;
use ctseg_core::model::pretrained::PretrainedWeights;
use ctseg_core::recipe::output_maps::output_maps;
use ctseg_core::recipe::{Recipe, Region};
use ctseg_core::run::data::RunData;
use ctseg_core::run::folder::{RunFolder, RunSettings};
use ctseg_engine::weights::network_tensors;

/// The settings that all ranks must agree on.
pub(super) fn shared_settings(job: &FitJob) -> Result<String> {
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

/// A run that is ready to start or resume.
pub(super) struct PreparedRun {
    pub run: RunFolder,
    /// The settings that the run was started with.
    pub original: RunSettings,
    pub data: RunData,
    /// Reported in the log.
    pub notes: Vec<String>,
    pub log: File,
    /// Weights to initialise from.
    pub pretrained: Option<PretrainedWeights>,
}

impl PreparedRun {
    fn open(
        job: &FitJob,
        run: RunFolder,
        original: RunSettings,
        data: RunData,
        notes: Vec<String>,
    ) -> Result<Self> {
        Ok(Self {
            pretrained: load_pretrained(job, original.from.as_deref())?,
            log: run.log_file()?,
            run,
            original,
            data,
            notes,
        })
    }
}

/// Checks recipe, data and model, and opens the run.
pub(super) fn prepare_run(job: &FitJob, observer: &dyn Observer) -> Result<PreparedRun> {
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
            "training.freeze_encoder_levels needs pretrained weights; pass a model with --from MODEL",
        ));
    }
    let data = match &job.trial {
        Some(trial) => trial.data.clone(),
        None => {
            Bundle::check_target(&job.model, recipe.stage, &job.dataset.structures)?;
            if job.resume.is_none() {
                check_before_reading(job)?;
            }
            let content = check_dataset(&job.dataset, job.stop, observer)?;
            let data = CheckedData {
                dataset: &job.dataset,
                content: &content,
                path: &job.dataset_path,
            };
            let resumed = job.resume.as_deref();
            run_data(&data, recipe.folds, job.seed, resumed, observer)?
        }
    };
    for fold in recipe.trained_folds() {
        job.dataset.predefined_split(&data.splits, fold)?;
    }
    check_labels(recipe, &job.dataset, &data, observer)?;
    let stage1_sha256 = check_stage_one(recipe, &job.model, &data.content)?;
    if job.resume.is_none() {
        check_pretrained(job)?;
    }
    open_run(job, data, stage1_sha256, observer)
}

/// Checks that need no voxel data.
///
/// # Errors
/// The recipe needs a stage 1 and the model has none; there are too few patients for the folds.
fn check_before_reading(job: &FitJob) -> Result<()> {
    let recipe = &job.recipe;
    if recipe.region != Region::Whole {
        Bundle::open(&job.model)?.require_stage(1)?;
    }
    for fold in recipe.trained_folds() {
        job.dataset.split(recipe.folds, fold, job.seed)?;
    }
    Ok(())
}

/// The checksum of the model's stage 1 if the recipe needs one.
///
/// # Errors
/// The model has no stage 1, or all its networks were trained on one of the cases.
pub fn check_stage_one(
    recipe: &Recipe,
    model: &Path,
    content: &DatasetContent,
) -> Result<Option<String>> {
    if recipe.region == Region::Whole {
        return Ok(None);
    }
    let bundle = Bundle::open(model)?;
    let known = KnownCases::new(bundle.require_stage(1)?);
    for case in &content.cases {
        known.out_of_fold_network(&case.case, &case.image_sha256)?;
    }
    Ok(bundle.stage_sha256(1).map(str::to_owned))
}

/// Checks that the pretrained weights exist and fit.
fn check_pretrained(job: &FitJob) -> Result<()> {
    let Some(pretrained) = load_pretrained(job, job.from.as_deref())? else {
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
        let initialised = pretrained.initialise(index, fresh.clone())?;
        initialised.refuse_frozen_random(recipe.training.freeze_encoder_levels)?;
    }
    Ok(())
}

/// The weights of the model at `from`, if one is given.
fn load_pretrained(job: &FitJob, from: Option<&Path>) -> Result<Option<PretrainedWeights>> {
    from.map(|path| PretrainedWeights::load(path, job.recipe.stage, &job.dataset.structures))
        .transpose()
}

/// Creates the run's folder, or reopens that of a resumed run.
fn open_run(
    job: &FitJob,
    data: RunData,
    stage1_sha256: Option<String>,
    observer: &dyn Observer,
) -> Result<PreparedRun> {
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
    let existing = match &job.trial {
        Some(trial) => Some(trial.folder).filter(|folder| folder.join("run.toml").exists()),
        None => job.resume.as_deref(),
    };
    if let Some(path) = existing {
        return reopen_run(job, path, &settings, data, observer);
    }
    let run = match &job.trial {
        Some(trial) => RunFolder::create_at(trial.folder, &job.recipe, &settings, &data)?,
        None => RunFolder::create(&job.runs, &job.recipe, &settings, &data)?,
    };
    PreparedRun::open(job, run, settings, data, Vec::new())
}

/// Reopens the run at `path`, with the dataset location in `now` and the number of epochs in the job's recipe.
fn reopen_run(
    job: &FitJob,
    path: &Path,
    now: &RunSettings,
    data: RunData,
    observer: &dyn Observer,
) -> Result<PreparedRun> {
    let (run, before, original) = RunFolder::resume(path)?;
    if original.stage1_sha256.is_some() && original.stage1_sha256 != now.stage1_sha256 {
        return Err(Error::file(
            &job.model,
            format!(
                "the model's stage 1 has changed since run {} started; restore the model, or start a new run without --resume",
                path.display()
            ),
        ));
    }
    let mut notes = change_epochs(job, &run, &before, observer)?;
    if now.dataset != original.dataset {
        notes.push(format!(
            "the dataset is now in {}; it was in {} when the run started",
            now.dataset.display(),
            original.dataset.display()
        ));
    }
    let settings = RunSettings {
        dataset: now.dataset.clone(),
        data_root: now.data_root.clone(),
        stage1_sha256: now.stage1_sha256.clone(),
        ..original.clone()
    };
    let mut recipe = before;
    recipe.training.epochs = job.recipe.training.epochs;
    if settings != original || !notes.is_empty() {
        run.update(&recipe, &settings)?;
    }
    if RunData::read(path)?.is_none() {
        data.write(path)?;
    }
    PreparedRun::open(job, run, original, data, notes)
}

/// The content of the dataset, with every voxel read. Reports all problems, and fails if there are any or when stopped.
pub fn check_dataset(
    dataset: &Dataset,
    stop: &AtomicBool,
    observer: &dyn Observer,
) -> Result<DatasetContent> {
    let task = observer.task("checking the data", dataset.cases.len() as u64, "cases");
    let check = || check_stop(stop, || "the data was being checked".to_owned());
    let mut report =
        dataset.check_cancellable(CheckDepth::Voxels, check, |_, _| task.advance(1))?;
    drop(task);
    let (warnings, notes): (Vec<_>, Vec<_>) = report
        .notes
        .iter()
        .cloned()
        .partition(|note| note.is_warning);
    for line in grouped(&notes) {
        observer.info(&line);
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
