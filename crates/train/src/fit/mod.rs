//! Training one stage: check the data, split it, look through stage 1's eyes, train the folds, publish.

mod case_source;
mod data;
mod extend;
mod folds;
mod held_out;
mod job;
mod manifests;
mod preflight;
mod tracking;
mod worker_ranks;

pub use data::{CheckedData, run_data};
pub use job::StageOneMemory;
pub use job::{FitJob, FitSummary, TrialRun};
pub use preflight::{check_dataset, check_stage_one};
pub use worker_ranks::Along;

use std::path::PathBuf;
use std::time::Instant;

use crate::diagnosis;
use ctseg_base::progress::{Logged, Observer};
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::GivenSplits;
use ctseg_core::model::bundle::{Bundle, TrainedStage};
use ctseg_core::model::pretrained::Beginning;
use ctseg_core::run::folder::RunSettings;
use ctseg_core::run::state_file;
use ctseg_core::run::state_file::StateKeeper;
use ctseg_core::run::tracker::{Outcome, Tracker, Trackers};
use ctseg_engine::precision::Precision;

use case_source::source_together;
use folds::train_folds;
use held_out::{drawn, held_out_roi_quality, out_of_fold_and_cleaning};
use manifests::stage_manifest;
use preflight::{Ready, begun_from, checked, wishes};
use tracking::Telling;

/// Trains the stage and puts it into the model. The processes of a team are done when their training is: the first one
/// does the rest. Folds that are done when the run is killed lie in its
/// checkpoints, and a resumed run takes them from there.
///
/// # Errors
/// A model folder that cannot be used and unsound data (every problem is said to `observer` first), both
/// before any training; no stage 1 to build on; and all of [`train`](crate::trainer::train)'s.
pub fn fit(job: &FitJob, observer: &dyn Observer) -> Result<FitSummary> {
    let started = Instant::now();
    let recipe = &job.recipe;
    if job.compute.precision == Precision::Int8 {
        return Err(Error::usage(
            "--precision int8 is for prediction; train in f32, bf16 or f16, then run 'ctseg calibrate'",
        ));
    }
    if recipe.nnunet.is_some() {
        return Err(Error::usage(
            "a recipe with a section [nnunet] is that of an imported model and is not trained; train one of the recipes nnunet-…, with --from MODEL for its weights",
        ));
    }
    if recipe.training.sync_norms && !job.team.is_alone() && !job.compute.choice.is_libtorch() {
        return Err(Error::usage(
            "training.sync_norms is for device libtorch; on flex use network.norm=instance, which needs no other samples",
        ));
    }
    job.team.agree_on(&wishes(job)?)?;
    let ready = job.team.leads().then(|| checked(job, observer)).transpose();
    let ready = job.team.together(ready)?;
    let (path, splits) = broadcast_run(job, ready.as_ref())?;
    job.team
        .advise(&format!("'ctseg fit --resume {}' goes on", path.display()));
    match ready {
        Some(ready) => led(job, ready, observer, started),
        None => worker_ranks::trained(job, (&path, &splits), observer, started),
    }
}

/// The run's folder and folds, from the first process to all.
fn broadcast_run(job: &FitJob, ready: Option<&Ready>) -> Result<(PathBuf, GivenSplits)> {
    let foreign = |error| Error::invalid(format!("internal: broadcast of the run: {error}"));
    let known = ready.map(|ready| {
        let path = ready.run.path().to_string_lossy();
        serde_json::to_vec(&(path, &ready.data.splits.folds)).map_err(foreign)
    });
    let bytes = job.team.together(known.transpose())?;
    let bytes = job.team.told(bytes.unwrap_or_default())?;
    let (path, folds): (PathBuf, _) = serde_json::from_slice(&bytes).map_err(foreign)?;
    let file = path.clone();
    Ok((path, GivenSplits { file, folds }))
}

/// The run as the first process has it, which may be the only one.
fn led(
    job: &FitJob,
    ready: Ready,
    observer: &dyn Observer,
    started: Instant,
) -> Result<FitSummary> {
    let Ready {
        run,
        began,
        data,
        notes,
    } = ready;
    let recipe = &job.recipe;
    let opened = begun_from(job, &began.from).and_then(|from| Ok((from, run.log_file()?)));
    let (beginning, log) = job.team.together(opened)?;
    let logged = Logged::new(observer, log);
    let state = run.path().join(state_file::FILE);
    let state = StateKeeper::begin(&state, "fit", job.max_time, &logged)?;
    let observer: &dyn Observer = &state;
    observer.say(&format!(
        "stage {} '{}' on {} of '{}', {}, device {}, run {}",
        recipe.stage,
        recipe.name,
        counted(job.dataset.training_cases().len(), "case"),
        job.dataset.name,
        counted(job.dataset.structures.len(), "structure"),
        job.compute,
        run.path().display()
    ));
    notes.iter().for_each(|note| observer.say(note));
    warn_of_no_effect(job, &began, observer);
    let trackers = Trackers::new(&run, job.trackers, observer);
    trackers.begun(&run.identity())?;
    let telling = Telling {
        job,
        run: &run,
        tracker: &trackers,
        observer,
        data: &data,
    };
    let trained = trained_and_published(&telling, beginning, started);
    telling.ending();
    let outcome = Outcome::of(&trained);
    state.ended(&outcome);
    trackers.ended(&run.identity(), &outcome)?;
    trained.map_err(|error| match error {
        Error::Interrupted(how) => Error::Interrupted(format!(
            "{how}; 'ctseg fit --resume {}' goes on",
            run.path().display()
        )),
        other => other,
    })
}

/// Says which settings change nothing, and that the device is not the one that the run `began` on.
fn warn_of_no_effect(job: &FitJob, began: &RunSettings, observer: &dyn Observer) {
    if began.engine != job.compute.to_string() {
        observer.warn(&format!(
            "this run began on '{}'; its weights will not be those of an uninterrupted one",
            began.engine
        ));
    }
    for line in job.recipe.without_effect() {
        observer.warn(&line);
    }
    let training = &job.recipe.training;
    if !job.compute.choice.is_libtorch() && (training.recompute || training.micro_batches > 1) {
        observer.warn("training.recompute and micro_batches are for device libtorch; they change nothing here");
    }
}

fn trained_and_published(
    telling: &Telling,
    beginning: Option<Beginning>,
    started: Instant,
) -> Result<FitSummary> {
    let Telling {
        job, run, observer, ..
    } = *telling;
    let recipe = &job.recipe;
    let (source, stage1_sha256) = source_together(job, telling.beginning(), observer)?;
    let mut stage = TrainedStage {
        manifest: stage_manifest(job, &telling.data.content, stage1_sha256),
        weights: Vec::new(),
    };
    let done = train_folds(telling, &source, beginning.as_ref(), &mut stage, started)?;
    job.team.part();
    job.team.end()?;
    let summary = |roi| {
        Ok(FitSummary {
            diagnoses: diagnosis::of_run(run.path(), recipe)?,
            run: run.path().to_path_buf(),
            model: job.model.clone(),
            folds: done,
            roi,
            out_of_fold: None,
            postprocessing: None,
            seconds: started.elapsed().as_secs_f64(),
        })
    };
    if let Some(store) = source.store() {
        store.tell();
    }
    if job.trial.is_some() {
        return summary(None);
    }
    let replaced = Bundle::publish(&job.model, &job.dataset.structures, stage)?;
    if replaced.stage2 {
        observer.warn("the model's stage 2 was trained on the old stage 1 and was removed; run 'ctseg fit --stage 2'");
    }
    if !replaced.folds.is_empty() {
        observer.warn(&format!(
            "the model's stage {} had folds of another recipe, seed or data, or of an earlier version, which were removed: {:?}; 'ctseg fit --resume RUN' of their run puts them back where they fit",
            recipe.stage, replaced.folds
        ));
    }
    let roi = match recipe.stage {
        1 => Some(held_out_roi_quality(job, observer)?),
        _ => None,
    };
    let (out_of_fold, postprocessing) =
        out_of_fold_and_cleaning(telling, &source.stage_one, started)?;
    let summary = FitSummary {
        out_of_fold,
        postprocessing,
        ..summary(roi)?
    };
    drawn(telling, &summary);
    telling.done(&summary);
    Ok(summary)
}
