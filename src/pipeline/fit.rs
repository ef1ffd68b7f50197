//! Training one stage: check the data, split it, look through stage 1's eyes, train the folds, publish.

mod along;
mod held_out;
mod manifests;
mod opened;
mod source;
mod told;

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::bundle::{Bundle, TrainedStage};
use super::case_store::CaseStore;
use super::checkpoint::{CheckpointFolder, Progress};
use super::dataset::{Dataset, Split};
use super::diagnosis::{self, Diagnosis};
use super::fine_tuning::Beginning;
use super::guard::guarded;
use super::observer::{Logged, Observer};
use super::out_of_fold::OutOfFold;
use super::overlays::DrawComparison;
use super::postprocessing::Postprocessing;
use super::recipe::Recipe;
use super::run_folder::{RunFolder, RunSettings};
use super::run_state::{self, StateKeeper};
use super::sampling::CaseSource;
use super::schedule::Keep;
use super::stage_one::RoiQuality;
use super::tracker::{Outcome, Tracker, Trackers};
use super::training::train;
use super::training_job::{Trained, TrainingJob};
use crate::error::{Error, Result};
use crate::team::Team;
use crate::tensors::device::Compute;
use crate::tensors::precision::Precision;

pub use along::Along;
use held_out::{drawn, held_out_roi_quality, out_of_fold_and_cleaning};
use manifests::{fold_manifest, stage_manifest};
pub use opened::check_dataset;
use opened::{begun_from, checked, wishes};
pub use source::StageOneMemory;
use source::source_together;
use told::Telling;

/// What to train, on what, into what.
pub struct FitJob<'a> {
    pub recipe: Recipe,
    pub dataset: Dataset,
    /// As the user named it, to be found again when the run is resumed.
    pub dataset_path: PathBuf,
    pub data_root: Option<PathBuf>,
    /// The bundle that the stage is published into.
    pub model: PathBuf,
    pub runs: PathBuf,
    /// A model whose weights to begin with, as far as they fit.
    pub from: Option<PathBuf>,
    /// The folder of an earlier run to go on with.
    pub resume: Option<PathBuf>,
    pub compute: Compute,
    /// See [`TrainingJob::loader_threads`].
    pub loader_threads: Option<usize>,
    pub seed: u64,
    /// All of the training must be over after this time.
    pub max_time: Option<Duration>,
    pub stop: &'a AtomicBool,
    /// Who else hears of the run, beside its folder.
    pub trackers: &'a [&'a dyn Tracker],
    /// Facts about where the run comes from, by name, for those.
    pub tags: Vec<(String, String)>,
    /// Draws the held-out cases that came out best and worst.
    pub draw_comparison: Option<DrawComparison>,
    /// Where the run is one of a sweep's: nothing is put into the model.
    pub trial: Option<TrialRun<'a>>,
    /// Where prepared cases are kept on disk.
    pub case_store: Option<&'a CaseStore>,
    /// The processes that train together. All have the same job; the first one alone writes, tracks and publishes.
    pub team: Arc<Team>,
}

/// What a run is told by the sweep that it belongs to.
#[derive(Clone, Copy)]
pub struct TrialRun<'a> {
    /// The run's folder; one that holds the run already is gone on with.
    pub folder: &'a Path,
    /// The sweep's name.
    pub parent: &'a str,
    /// The run pauses after so many epochs of each fold.
    pub epochs: usize,
    /// Stage 1's results, which all trials share.
    pub stage_one: &'a StageOneMemory,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct FitSummary {
    pub run: PathBuf,
    pub model: PathBuf,
    pub folds: Vec<(usize, Progress)>,
    /// For stage 1: its regions on cases that the networks did not train on.
    pub roi: Option<RoiQuality>,
    /// Held-out cases by the networks that did not see them; none where it is switched off.
    pub out_of_fold: Option<OutOfFold>,
    /// How the model's label maps are cleaned up.
    pub postprocessing: Option<Postprocessing>,
    /// How the training of each fold went.
    pub diagnoses: Vec<Diagnosis>,
    pub seconds: f64,
}

/// Trains the stage and puts it into the model. The processes of a team are done when their training is: the first one
/// does the rest. Folds that are done when the run is killed lie in its
/// checkpoints, and a resumed run takes them from there.
///
/// # Errors
/// A model folder that cannot be used and unsound data (every problem is said to `observer` first), both
/// before any training; no stage 1 to build on; and all of [`train`]'s.
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
        None => along::trained(job, &path, observer, started),
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
    let state = run.path().join(run_state::FILE);
    let state = StateKeeper::begin(&state, "fit", job.max_time, &logged)?;
    let observer: &dyn Observer = &state;
    observer.say(&format!(
        "stage {} '{}' on {} cases of '{}', {} structures, device {}, run {}",
        recipe.stage,
        recipe.name,
        job.dataset.training_cases().len(),
        job.dataset.name,
        job.dataset.structures.len(),
        job.compute,
        run.path().display()
    ));
    if began.engine != job.compute.to_string() {
        observer.warn(&format!(
            "this run began on '{}'; its weights will not be those of an uninterrupted one",
            began.engine
        ));
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
    telling.beginning();
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
    let (source, stage1_sha256) = source_together(job, observer)?;
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

/// Trains the folds one after the other, each from `beginning` if there is one, and puts their networks into `stage`.
fn train_folds(
    telling: &Telling,
    source: &CaseSource,
    beginning: Option<&Beginning>,
    stage: &mut TrainedStage,
    started: Instant,
) -> Result<Vec<(usize, Progress)>> {
    let job = telling.job;
    let mut done = Vec::new();
    for (index, fold) in job.recipe.trained_folds().into_iter().enumerate() {
        let deadline = deadline(job, index, started);
        let begin = beginning.map(|beginning| (beginning, index));
        let trained = guarded(|| train_fold(telling, source, (fold, begin), deadline))?;
        telling.fold(fold);
        let manifest = fold_manifest(job, fold, &trained.progress)?;
        stage.manifest.folds.push(manifest);
        stage.weights.push(trained.weights);
        done.push((fold, trained.progress));
    }
    Ok(done)
}

/// When fold number `index` must be done: what is left of the time is shared by the folds that are left.
fn deadline(job: &FitJob, index: usize, started: Instant) -> Option<Instant> {
    let left = (job.recipe.trained_folds().len() - index) as u32;
    let limit = training_share(&job.recipe, job.max_time?);
    Some(Instant::now() + limit.saturating_sub(started.elapsed()) / left)
}

/// The part of the time that is for training: a look at the held-out cases comes after it.
fn training_share(recipe: &Recipe, limit: Duration) -> Duration {
    if recipe.stage == 1 || recipe.out_of_fold {
        limit.mul_f64(0.95)
    } else {
        limit
    }
}

fn train_fold(
    telling: &Telling,
    source: &CaseSource,
    (fold, beginning): (usize, Option<(&Beginning, usize)>),
    deadline: Option<Instant>,
) -> Result<Trained> {
    let Telling {
        job, run, observer, ..
    } = *telling;
    let split = job.dataset.split(job.recipe.folds, fold, job.seed)?;
    let training = TrainingJob {
        beginning,
        deadline,
        ..training_job(job, source, &split, (fold, run.checkpoints(fold)))
    };
    let there = run.refuse_if_lost(&training.name, &training.checkpoints);
    job.team.together(there)?;
    let trained = train(&training, observer, telling.tracker)?;
    let progress = &trained.progress;
    let (best, dice) = progress.best.unwrap_or((0, 0.0));
    let kept = match (job.recipe.training.keep, progress.kept(Keep::Last)) {
        (Keep::Last, Some((epoch, dice))) => {
            format!("kept epoch {epoch}, the last, validation Dice {dice:.4}; ")
        }
        _ => String::new(),
    };
    observer.say(&format!(
        "fold {fold}: {} after {} epochs; {kept}best epoch {best}, validation Dice {dice:.4}",
        progress
            .ended
            .map_or_else(|| "paused".to_owned(), |ended| ended.to_string()),
        progress.epoch
    ));
    Ok(trained)
}

/// The training of a fold, from fresh weights and for as long as it takes.
fn training_job<'a>(
    job: &'a FitJob,
    source: &'a CaseSource,
    split: &'a Split,
    (fold, checkpoints): (usize, CheckpointFolder),
) -> TrainingJob<'a> {
    TrainingJob {
        source,
        train: &split.train,
        validation: &split.validation,
        checkpoints,
        beginning: None,
        compute: &job.compute,
        // Each fold draws its own weights and slices.
        seed: job.seed.wrapping_mul(1_000_003).wrapping_add(fold as u64),
        deadline: None,
        stop: job.stop,
        loader_threads: job.loader_threads,
        name: format!("fold {fold}"),
        pause_after: job.trial.map(|trial| trial.epochs),
        team: Arc::clone(&job.team),
    }
}
