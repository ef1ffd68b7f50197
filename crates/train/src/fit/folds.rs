//! Trains the folds of a stage within the time limit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::job::FitJob;
use super::manifests::fold_manifest;
use super::tracking::FitReporter;
use crate::data::case_source::CaseSource;
use crate::trainer::job::{Trained, TrainingJob};
use crate::trainer::train;
use ctseg_base::Result;
use ctseg_base::cancel::catch_panic;
use ctseg_base::text::table::or_undefined;
use ctseg_base::text::words::counted;
use ctseg_core::dataset::Split;
use ctseg_core::model::bundle::TrainedStage;
use ctseg_core::model::pretrained::PretrainedWeights;
use ctseg_core::recipe::Recipe;
use ctseg_core::recipe::keep::Keep;
use ctseg_core::run::checkpoint::{CheckpointFolder, Progress};

/// Trains the folds one after the other, each from `pretrained` if given, and adds their networks to `stage`.
pub(super) fn train_folds(
    reporter: &FitReporter,
    source: &CaseSource,
    pretrained: Option<&PretrainedWeights>,
    stage: &mut TrainedStage,
    started: Instant,
) -> Result<Vec<(usize, Progress)>> {
    let job = reporter.job;
    let mut done = Vec::new();
    for (index, fold) in job.recipe.trained_folds().into_iter().enumerate() {
        let split = job.dataset.predefined_split(&reporter.data.splits, fold)?;
        let training = TrainingJob {
            pretrained: pretrained.map(|weights| (weights, index)),
            deadline: deadline(job, index, started),
            ..training_job(job, source, fold, &split, reporter.run.checkpoints(fold))
        };
        let trained = catch_panic(|| train_fold(reporter, fold, &training))?;
        reporter.fold_trained(fold);
        let manifest = fold_manifest(job, fold, &split, &trained.progress);
        stage.manifest.folds.push(manifest);
        stage.weights.push(trained.weights);
        done.push((fold, trained.progress));
    }
    Ok(done)
}

/// The deadline of fold number `index`: the remaining time is divided equally among the remaining folds.
pub(super) fn deadline(job: &FitJob, index: usize, started: Instant) -> Option<Instant> {
    let remaining = (job.recipe.trained_folds().len() - index) as u32;
    let limit = training_share(&job.recipe, job.max_time?);
    Some(Instant::now() + limit.saturating_sub(started.elapsed()) / remaining)
}

/// The part of the time limit for training; predictions of the held-out cases follow it.
fn training_share(recipe: &Recipe, limit: Duration) -> Duration {
    if recipe.stage == 1 || recipe.out_of_fold {
        limit.mul_f64(0.95)
    } else {
        limit
    }
}

fn train_fold(reporter: &FitReporter, fold: usize, training: &TrainingJob) -> Result<Trained> {
    let FitReporter {
        job, run, observer, ..
    } = *reporter;
    let not_lost = run.check_not_lost(&training.name, &training.checkpoints);
    job.group.all_ok(not_lost)?;
    let trained = train(training, observer, reporter.tracker)?;
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
    observer.info(&format!(
        "fold {fold}: {} after {}; {kept}best epoch {best}, validation Dice {dice}",
        progress
            .ended
            .map_or_else(|| "paused".to_owned(), |ended| ended.to_string()),
        counted(progress.epoch, "epoch")
    ));
    Ok(trained)
}

/// The training of a fold, from random weights and without a deadline.
pub(super) fn training_job<'a>(
    job: &'a FitJob,
    source: &'a CaseSource,
    fold: usize,
    split: &'a Split,
    checkpoints: CheckpointFolder,
) -> TrainingJob<'a> {
    TrainingJob {
        source,
        train: &split.train,
        validation: &split.validation,
        checkpoints,
        pretrained: None,
        compute: &job.compute,
        // Each fold has its own random weights and patches.
        seed: job.seed.wrapping_mul(1_000_003).wrapping_add(fold as u64),
        deadline: None,
        stop: job.stop,
        loader_threads: job.loader_threads,
        name: format!("fold {fold}"),
        pause_after: job.trial.map(|trial| trial.epochs),
        group: Arc::clone(&job.group),
    }
}
