//! Training the folds of a stage, within the time that the fit has.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::job::FitJob;
use super::manifests::fold_manifest;
use super::tracking::Telling;
use crate::data::case_source::CaseSource;
use crate::trainer::job::{Trained, TrainingJob};
use crate::trainer::train;
use ctseg_base::Result;
use ctseg_base::cancel::guarded;
use ctseg_base::text::table::or_undefined;
use ctseg_base::text::words::counted;
use ctseg_core::dataset::Split;
use ctseg_core::model::bundle::TrainedStage;
use ctseg_core::model::pretrained::Beginning;
use ctseg_core::recipe::Recipe;
use ctseg_core::recipe::keep::Keep;
use ctseg_core::run::checkpoint::{CheckpointFolder, Progress};

/// Trains the folds one after the other, each from `beginning` if there is one, and puts their networks into `stage`.
pub(super) fn train_folds(
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
        let split = job.dataset.given_split(&telling.data.splits, fold)?;
        let trained = guarded(|| train_fold(telling, source, &split, (fold, begin), deadline))?;
        telling.fold(fold);
        let manifest = fold_manifest(job, (fold, &split), &trained.progress);
        stage.manifest.folds.push(manifest);
        stage.weights.push(trained.weights);
        done.push((fold, trained.progress));
    }
    Ok(done)
}

/// When fold number `index` must be done: what is left of the time is shared by the folds that are left.
pub(super) fn deadline(job: &FitJob, index: usize, started: Instant) -> Option<Instant> {
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
    split: &Split,
    (fold, beginning): (usize, Option<(&Beginning, usize)>),
    deadline: Option<Instant>,
) -> Result<Trained> {
    let Telling {
        job, run, observer, ..
    } = *telling;
    let training = TrainingJob {
        beginning,
        deadline,
        ..training_job(job, source, split, (fold, run.checkpoints(fold)))
    };
    let there = run.refuse_if_lost(&training.name, &training.checkpoints);
    job.team.together(there)?;
    let trained = train(&training, observer, telling.tracker)?;
    let progress = &trained.progress;
    let (best, dice) = progress.best.unwrap_or((0, None));
    let dice = or_undefined(dice, 4);
    let kept = match (job.recipe.training.keep, progress.kept(Keep::Last)) {
        (Keep::Last, Some((epoch, dice))) => format!(
            "kept epoch {epoch}, the last, validation Dice {}; ",
            or_undefined(dice, 4)
        ),
        _ => String::new(),
    };
    observer.say(&format!(
        "fold {fold}: {} after {}; {kept}best epoch {best}, validation Dice {dice}",
        progress
            .ended
            .map_or_else(|| "paused".to_owned(), |ended| ended.to_string()),
        counted(progress.epoch, "epoch")
    ));
    Ok(trained)
}

/// The training of a fold, from fresh weights and for as long as it takes.
pub(super) fn training_job<'a>(
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
