//! Trains the folds of a stage, one after the other, within the time limit.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::job::{FitJob, FoldSummary, StageOneOutcome};
use super::tracking::FitReporter;
use crate::data::case_source::CaseSource;
use crate::trainer::job::TrainingJob;
use crate::trainer::train;
use ctseg_base::Result;
use ctseg_base::cancel::catch_panic;
use ctseg_base::progress::Observer;
use ctseg_base::text::table::or_undefined;
use ctseg_base::text::words::counted;
use ctseg_core::dataset::{PredefinedSplits, Split};
use ctseg_core::inference::coarse_stage::out_of_fold_results;
use ctseg_core::model::bundle::Bundle;
use ctseg_core::model::manifest::FoldManifest;
use ctseg_core::model::pretrained::PretrainedWeights;
use ctseg_core::recipe::keep::Keep;
use ctseg_core::recipe::{Recipe, Region};
use ctseg_core::run::checkpoint::{CheckpointFolder, Progress};
use ctseg_core::run::tracker::{EpochRecord, Tracker};
use ctseg_engine::weights::NamedTensors;

/// The training cases, for a stage 2 with stage 1's results.
pub(super) struct TrainingCases<'a> {
    pub source: CaseSource<'a>,
    /// Checksum of the stage 1 that found their regions.
    pub stage1_sha256: Option<String>,
}

impl<'a> TrainingCases<'a> {
    /// The cases, checked to be the same on all ranks. `preceding` is the result of this rank's work before.
    pub(super) fn find(
        job: &'a FitJob,
        preceding: Result<()>,
        observer: &'a dyn Observer,
    ) -> Result<Self> {
        let cases = preceding.and_then(|()| Self::of_rank(job, observer));
        let cases = job.group.all_ok(cases)?;
        let stage_one = cases.source.stage_one.iter();
        let regions: BTreeMap<_, _> = stage_one.map(|(i, of)| (i, &of.region)).collect();
        job.group
            .check_same_settings(&format!("{:?} {regions:?}", cases.stage1_sha256))?;
        Ok(cases)
    }

    fn of_rank(job: &'a FitJob, observer: &'a dyn Observer) -> Result<Self> {
        let stage_one = stage_one_results(job, observer)?;
        let values = job.dataset.structures.iter().map(|s| s.value).collect();
        let cache = job.preprocessed_cache.map(|cache| cache.session(observer));
        let source = CaseSource::new(&job.dataset, &job.recipe, values, stage_one.results);
        Ok(Self {
            source: source.with_stop(job.stop).with_disk_cache(cache),
            stage1_sha256: stage_one.sha256,
        })
    }
}

/// Stage 1's results for every training case of a stage 2; trials of a sweep share them.
fn stage_one_results(job: &FitJob, observer: &dyn Observer) -> Result<StageOneOutcome> {
    if job.recipe.region == Region::Whole {
        return Ok(StageOneOutcome::default());
    }
    let Some(trial) = &job.trial else {
        return run_stage_one(job, observer);
    };
    // A panic elsewhere cannot leave the map inconsistent: each update is a single insert.
    let cache = || {
        trial
            .stage_one
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    };
    if let Some(cached) = cache().get(&job.recipe.prior) {
        return Ok(cached.clone());
    }
    let outcome = run_stage_one(job, observer)?;
    cache().insert(job.recipe.prior, outcome.clone());
    Ok(outcome)
}

fn run_stage_one(job: &FitJob, observer: &dyn Observer) -> Result<StageOneOutcome> {
    let bundle = Bundle::open(&job.model)?;
    let results = out_of_fold_results(
        &bundle,
        &job.dataset,
        &job.dataset.training_cases(),
        job.recipe.prior,
        &job.compute,
        job.stop,
        observer,
    )?;
    let sha256 = bundle.stage_sha256(1).map(str::to_owned);
    Ok(StageOneOutcome { results, sha256 })
}

/// What the folds of a stage are trained with, on each rank.
pub(super) struct FoldTrainer<'a> {
    pub job: &'a FitJob<'a>,
    pub source: &'a CaseSource<'a>,
    pub splits: &'a PredefinedSplits,
    /// Initial weights of rank 0, which shares them.
    pub pretrained: Option<&'a PretrainedWeights>,
    pub observer: &'a dyn Observer,
    /// Of rank 0, which writes the run's folder.
    pub reporter: Option<&'a FitReporter<'a>>,
    /// When the time limit began.
    pub started: Instant,
}

/// A trained fold. Only rank 0 has its weights.
pub(super) struct TrainedFold {
    pub summary: FoldSummary,
    pub manifest: FoldManifest,
    pub weights: NamedTensors,
}

impl FoldTrainer<'_> {
    /// Trains all folds of the recipe and leaves the process group.
    pub(super) fn train_folds(&self) -> Result<Vec<TrainedFold>> {
        let folds = self.job.recipe.trained_folds();
        let folds = folds.iter().enumerate();
        let trained = folds
            .map(|(index, fold)| self.train_fold(index, *fold))
            .collect::<Result<_>>()?;
        self.job.group.mark_finished();
        self.job.group.shutdown()?;
        Ok(trained)
    }

    fn train_fold(&self, index: usize, fold: usize) -> Result<TrainedFold> {
        let (job, reporter) = (self.job, self.reporter);
        let split = job.dataset.predefined_split(self.splits, fold)?;
        let training = self.training_job(index, fold, &split);
        let not_lost = reporter.map_or(Ok(()), |reporter| {
            let run = reporter.run;
            run.check_not_lost(&training.name, &training.checkpoints)
        });
        job.group.all_ok(not_lost)?;
        let tracker = reporter.map_or(&NoTracker as &dyn Tracker, |reporter| reporter.tracker);
        let trained = catch_panic(|| train(&training, self.observer, tracker))?;
        let progress = trained.progress;
        let line = fold_line(job.recipe.training.keep, &progress);
        self.observer.info(&format!("fold {fold}: {line}"));
        if let Some(reporter) = reporter {
            reporter.fold_trained(fold);
        }
        Ok(TrainedFold {
            manifest: fold_manifest(job, fold, &split, &progress),
            weights: trained.weights,
            summary: FoldSummary { fold, progress },
        })
    }

    fn training_job<'a>(&'a self, index: usize, fold: usize, split: &'a Split) -> TrainingJob<'a> {
        let job = self.job;
        // Only rank 0 writes checkpoints.
        let none = || CheckpointFolder::new(&self.splits.file);
        TrainingJob {
            source: self.source,
            train: &split.train,
            validation: &split.validation,
            checkpoints: self
                .reporter
                .map_or_else(none, |reporter| reporter.run.checkpoints(fold)),
            pretrained: self.pretrained,
            index,
            compute: &job.compute,
            // Each fold has its own random weights and patches.
            seed: job.seed.wrapping_mul(1_000_003).wrapping_add(fold as u64),
            deadline: self.deadline(index),
            stop: job.stop,
            loader_threads: job.loader_threads,
            name: format!("fold {fold}"),
            pause_after: job.trial.map(|trial| trial.epochs),
            group: Arc::clone(&job.group),
        }
    }

    /// The deadline of fold number `index`: the remaining time is divided equally among the remaining folds.
    fn deadline(&self, index: usize) -> Option<Instant> {
        let job = self.job;
        let remaining = (job.recipe.trained_folds().len() - index) as u32;
        let limit = training_share(&job.recipe, job.max_time?);
        Some(Instant::now() + limit.saturating_sub(self.started.elapsed()) / remaining)
    }
}

/// The part of the time limit for training; predictions of the held-out cases follow it.
fn training_share(recipe: &Recipe, limit: Duration) -> Duration {
    if recipe.stage == 1 || recipe.out_of_fold {
        limit.mul_f64(0.95)
    } else {
        limit
    }
}

/// The log line of a trained fold.
fn fold_line(keep: Keep, progress: &Progress) -> String {
    let (best, dice) = progress.best.unwrap_or((0, None));
    let dice = or_undefined(dice, 4);
    let kept = match (keep, progress.kept(Keep::Last)) {
        (Keep::Last, Some((epoch, dice))) => format!(
            "kept epoch {epoch}, the last, validation Dice {}; ",
            or_undefined(dice, 4)
        ),
        _ => String::new(),
    };
    format!(
        "{} after {}; {kept}best epoch {best}, validation Dice {dice}",
        progress
            .ended
            .map_or_else(|| "paused".to_owned(), |ended| ended.to_string()),
        counted(progress.epoch, "epoch")
    )
}

fn fold_manifest(job: &FitJob, fold: usize, split: &Split, progress: &Progress) -> FoldManifest {
    let ids = |cases: &[usize]| {
        let ids = cases.iter().map(|case| job.dataset.cases[*case].id.clone());
        ids.collect()
    };
    let kept = progress.kept(job.recipe.training.keep);
    let (epoch, validation_dice) = kept.unwrap_or((0, None));
    FoldManifest {
        input_ranges: None,
        fold,
        epoch,
        validation_dice,
        held_out: ids(&split.validation),
        trained_on: ids(&split.train),
    }
}

/// Of ranks other than 0.
struct NoTracker;

impl Tracker for NoTracker {
    fn log_epoch(&self, _: &EpochRecord) -> Result<()> {
        Ok(())
    }
}
