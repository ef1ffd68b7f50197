//! Trains one stage: check and split the data, run stage 1 if needed, train the folds, publish the model.

mod data;
mod extend;
mod folds;
mod held_out;
mod job;
mod preflight;
mod tracking;
mod worker_ranks;

pub use data::{CheckedData, run_data};
pub use job::{FitJob, FitSummary, FoldSummary, StageOneCache, TrialRun};
pub use preflight::{check_dataset, check_stage_one};
pub use worker_ranks::WorkerObserver;

use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::diagnosis;
use ctseg_base::progress::{Logged, Observer};
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::content::DatasetContent;
use ctseg_core::dataset::{NamedSplit, PredefinedSplits};
use ctseg_core::model::bundle::{Bundle, TrainedStage};
use ctseg_core::model::manifest::StageManifest;
use ctseg_core::model::pretrained::PretrainedWeights;
use ctseg_core::run::folder::RunSettings;
use ctseg_core::run::state_file;
use ctseg_core::run::state_file::StateWriter;
use ctseg_core::run::tracker::{Outcome, Tracker, Trackers};
use ctseg_engine::precision::Precision;

use folds::{FoldTrainer, TrainingCases};
use held_out::{draw_best_and_worst, held_out_roi_quality, out_of_fold_and_postprocessing};
use preflight::{PreparedRun, prepare_run, shared_settings};
use tracking::FitReporter;

/// A run as all ranks know it.
#[derive(Serialize, Deserialize)]
struct SharedRun {
    path: String,
    folds: Vec<NamedSplit>,
    /// On rank 0 only.
    #[serde(skip)]
    prepared: Option<PreparedRun>,
}

/// Trains the stage and publishes it into the model. With several processes all ranks train, and rank 0 does the rest.
/// If the run is killed, finished folds are in its checkpoints, and a resumed run takes them from there.
///
/// # Errors
/// Before training: an unusable model folder, invalid data (all problems are reported to `observer` first), a missing
/// stage 1. Then those of [`train`](crate::trainer::train).
pub fn fit(job: &FitJob, observer: &dyn Observer) -> Result<FitSummary> {
    let started = Instant::now();
    let recipe = &job.recipe;
    if job.compute.precision == Precision::Int8 {
        return Err(Error::usage(
            "--precision int8 is for prediction; train in f32, bf16 or f16, then run 'ctseg quantize'",
        ));
    }
    if recipe.nnunet.is_some() {
        return Err(Error::usage(
            "a recipe with a section [nnunet] belongs to an imported model and cannot be trained; train a recipe nnunet-…, with --from MODEL to start from its weights",
        ));
    }
    if recipe.training.sync_norms && !job.group.is_single() && !job.compute.choice.is_libtorch() {
        return Err(Error::usage(
            "training.sync_norms needs device libtorch; on flex use network.norm=instance, which needs no synchronisation",
        ));
    }
    job.group.check_same_settings(&shared_settings(job)?)?;
    let internal = |error| Error::internal(format!("broadcast of the run: {error}"));
    let run = job.group.from_rank_zero(
        || {
            let prepared = prepare_run(job, observer)?;
            Ok(SharedRun {
                path: prepared.run.path().display().to_string(),
                folds: prepared.data.splits.folds.clone(),
                prepared: Some(prepared),
            })
        },
        |run| serde_json::to_vec(run).map_err(internal),
        |bytes| serde_json::from_slice(bytes).map_err(internal),
    )?;
    job.group
        .set_recovery_hint(&format!("resume with 'ctseg fit --resume {}'", run.path));
    let Some(prepared) = run.prepared else {
        let path = PathBuf::from(run.path);
        let splits = PredefinedSplits {
            file: path.clone(),
            folds: run.folds,
        };
        return worker_ranks::train_as_worker(job, path, &splits, observer, started);
    };
    fit_on_rank_zero(job, prepared, observer, started)
}

/// The fit on rank 0, or with a single process.
fn fit_on_rank_zero(
    job: &FitJob,
    prepared: PreparedRun,
    observer: &dyn Observer,
    started: Instant,
) -> Result<FitSummary> {
    let PreparedRun {
        run,
        original,
        data,
        notes,
        log,
        pretrained,
    } = prepared;
    let recipe = &job.recipe;
    let logged = Logged::new(observer, log);
    let state = run.path().join(state_file::FILE);
    let state = StateWriter::start(&state, "fit", job.max_time, &logged)?;
    let observer: &dyn Observer = &state;
    observer.info(&format!(
        "stage {} '{}' on {} of '{}', {}, device {}, run {}",
        recipe.stage,
        recipe.name,
        counted(job.dataset.training_cases().len(), "case"),
        job.dataset.name,
        counted(job.dataset.structures.len(), "structure"),
        job.compute,
        run.path().display()
    ));
    notes.iter().for_each(|note| observer.info(note));
    warn_of_no_effect(job, &original, observer);
    let trackers = Trackers::new(&run, job.trackers, observer);
    trackers.run_started(&run.identity())?;
    let reporter = FitReporter {
        job,
        run: &run,
        tracker: &trackers,
        observer,
        data: &data,
    };
    let trained = train_and_publish(&reporter, pretrained.as_ref(), started);
    reporter.run_ended();
    let outcome = Outcome::of(&trained);
    state.finish(&outcome);
    trackers.run_ended(&run.identity(), &outcome)?;
    trained.map_err(|error| match error {
        Error::Interrupted(how) => Error::Interrupted(format!(
            "{how}; resume with 'ctseg fit --resume {}'",
            run.path().display()
        )),
        other => other,
    })
}

/// Warns of settings without effect, and of a device other than the one the run started on.
fn warn_of_no_effect(job: &FitJob, original: &RunSettings, observer: &dyn Observer) {
    if original.engine != job.compute.to_string() {
        observer.warn(&format!(
            "this run was started on '{}'; its weights will differ from those of an uninterrupted run",
            original.engine
        ));
    }
    for line in job.recipe.without_effect() {
        observer.warn(&line);
    }
    let training = &job.recipe.training;
    if !job.compute.choice.is_libtorch() && (training.recompute || training.micro_batches > 1) {
        observer.warn("training.recompute and training.micro_batches have no effect here; they need device libtorch");
    }
}

fn train_and_publish(
    reporter: &FitReporter,
    pretrained: Option<&PretrainedWeights>,
    started: Instant,
) -> Result<FitSummary> {
    let FitReporter {
        job, run, observer, ..
    } = *reporter;
    let recipe = &job.recipe;
    let cases = TrainingCases::find(job, reporter.run_started(), observer)?;
    let source = &cases.source;
    let mut stage = TrainedStage {
        manifest: stage_manifest(job, &reporter.data.content, cases.stage1_sha256),
        weights: Vec::new(),
    };
    let trainer = FoldTrainer {
        job,
        source,
        splits: &reporter.data.splits,
        pretrained,
        observer,
        reporter: Some(reporter),
        started,
    };
    let mut folds = Vec::new();
    for trained in trainer.train_folds()? {
        folds.push(trained.summary);
        stage.manifest.folds.push(trained.manifest);
        stage.weights.push(trained.weights);
    }
    if let Some(cache) = source.disk_cache() {
        cache.report();
    }
    let mut summary = FitSummary::new(run.path().to_path_buf(), &job.model, folds);
    if job.trial.is_none() {
        publish(job, stage, observer)?;
        if recipe.stage == 1 {
            summary.roi = Some(held_out_roi_quality(job, observer)?);
        }
        let held_out = out_of_fold_and_postprocessing(reporter, &source.stage_one, started)?;
        summary.out_of_fold = held_out.out_of_fold;
        summary.postprocessing = held_out.postprocessing;
    }
    summary.diagnoses = diagnosis::of_run(run.path(), recipe)?;
    summary.seconds = started.elapsed().as_secs_f64();
    if job.trial.is_none() {
        draw_best_and_worst(reporter, &summary);
        reporter.published(&summary);
    }
    Ok(summary)
}

/// Writes the stage into the model and warns of what it replaced.
fn publish(job: &FitJob, stage: TrainedStage, observer: &dyn Observer) -> Result<()> {
    let replaced = Bundle::publish(&job.model, &job.dataset.structures, stage)?;
    if replaced.stage2 {
        observer.warn("the model's stage 2 was trained on the old stage 1 and was removed; train it again with 'ctseg fit --stage 2'");
    }
    if !replaced.folds.is_empty() {
        observer.warn(&format!(
            "the model's stage {} had folds of another recipe, seed, dataset or version, which were removed: {:?}; to restore them, resume their run with 'ctseg fit --resume RUN'",
            job.recipe.stage, replaced.folds
        ));
    }
    Ok(())
}

fn stage_manifest(
    job: &FitJob,
    content: &DatasetContent,
    stage1_sha256: Option<String>,
) -> StageManifest {
    StageManifest {
        dataset: job.dataset.name.clone(),
        data_fingerprint: content.sha256(),
        seed: job.seed,
        engine: job.compute.to_string(),
        stage1_sha256,
        channel: (!job.dataset.is_ct())
            .then(|| job.dataset.channel.clone())
            .flatten(),
        folds: Vec::new(),
        image_sha256: content.images(),
        recipe: job.recipe.clone(),
    }
}
