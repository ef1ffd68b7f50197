//! Training one stage: check the data, split it, look through stage 1's eyes, train the folds, publish.

mod case_source;
mod folds;
mod held_out;
mod job;
mod manifests;
mod preflight;
mod tracking;
mod worker_ranks;

pub use job::StageOneMemory;
pub use job::{FitJob, FitSummary, TrialRun};
pub use preflight::check_dataset;
pub use worker_ranks::Along;

use std::cell::OnceCell;
use std::path::PathBuf;
use std::time::Instant;

use crate::diagnosis;
use ctseg_base::progress::{Logged, Observer};
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result};
use ctseg_core::model::bundle::{Bundle, TrainedStage};
use ctseg_core::model::pretrained::Beginning;
use ctseg_core::run::folder::{RunFolder, RunSettings};
use ctseg_core::run::state_file;
use ctseg_core::run::state_file::StateKeeper;
use ctseg_core::run::tracker::{Outcome, Tracker, Trackers};
use ctseg_engine::precision::Precision;

use case_source::source_together;
use folds::train_folds;
use held_out::{drawn, held_out_roi_quality, out_of_fold_and_cleaning};
use manifests::stage_manifest;
use preflight::{begun_from, checked, wishes};
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
    let known = ready.as_ref().map(|(run, ..)| run.path().to_string_lossy());
    let known = known.map(|path| path.into_owned().into_bytes());
    let path = job.team.told(known.unwrap_or_default())?;
    let path = PathBuf::from(String::from_utf8_lossy(&path).into_owned());
    job.team
        .advise(&format!("'ctseg fit --resume {}' goes on", path.display()));
    match ready {
        Some((run, began)) => led(job, run, began, observer, started),
        None => worker_ranks::trained(job, &path, observer, started),
    }
}

/// The run as the first process has it, which may be the only one.
fn led(
    job: &FitJob,
    run: RunFolder,
    began: RunSettings,
    observer: &dyn Observer,
    started: Instant,
) -> Result<FitSummary> {
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
    if began.engine != job.compute.to_string() {
        observer.warn(&format!(
            "this run began on '{}'; its weights will not be those of an uninterrupted one",
            began.engine
        ));
    }
    for line in recipe.without_effect() {
        observer.warn(&line);
    }
    let training = &recipe.training;
    if !job.compute.choice.is_libtorch() && (training.recompute || training.micro_batches > 1) {
        observer.warn("training.recompute and micro_batches are for device libtorch; they change nothing here");
    }
    let trackers = Trackers::new(&run, job.trackers, observer);
    trackers.begun(&run.identity())?;
    let telling = Telling {
        job,
        run: &run,
        tracker: &trackers,
        observer,
        fingerprint: OnceCell::new(),
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
        manifest: stage_manifest(job, telling.data_fingerprint()?, stage1_sha256),
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
    if Bundle::publish(&job.model, &job.dataset.structures, stage)? {
        observer.warn("the model's stage 2 was trained on the old stage 1 and was removed; run 'ctseg fit --stage 2'");
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
