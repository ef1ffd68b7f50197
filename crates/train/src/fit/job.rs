//! The input and result of `fit`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::cross_validation::OutOfFold;
use crate::data::preprocessed_cache::PreprocessedCache;
use crate::diagnosis::Diagnosis;
use crate::overlays::DrawComparison;
use ctseg_core::dataset::Dataset;
use ctseg_core::inference::coarse_result::StageOneResult;
use ctseg_core::inference::coarse_stage::RoiQuality;
use ctseg_core::model::postprocessing::Postprocessing;
use ctseg_core::recipe::Recipe;
use ctseg_core::run::checkpoint::Progress;
use ctseg_core::run::data::RunData;
use ctseg_core::run::tracker::Tracker;
use ctseg_engine::device::Compute;
use ctseg_engine::distributed::process_group::ProcessGroup;

/// The input of `fit`: recipe, data, and where the results go.
pub struct FitJob<'a> {
    pub recipe: Recipe,
    pub dataset: Dataset,
    /// As given by the user; stored in the run, to find the dataset when it is resumed.
    pub dataset_path: PathBuf,
    pub data_root: Option<PathBuf>,
    /// The bundle that the stage is published into.
    pub model: PathBuf,
    pub runs: PathBuf,
    /// A model to initialise the weights from; layers that do not match are random.
    pub from: Option<PathBuf>,
    /// The folder of an earlier run to resume.
    pub resume: Option<PathBuf>,
    pub compute: Compute,
    /// See [`crate::trainer::job::TrainingJob::loader_threads`].
    pub loader_threads: Option<usize>,
    pub seed: u64,
    /// Time limit of the whole fit.
    pub max_time: Option<Duration>,
    pub stop: &'a AtomicBool,
    /// Trackers of the run, in addition to its folder.
    pub trackers: &'a [&'a dyn Tracker],
    /// Tags for the trackers, by name.
    pub tags: Vec<(String, String)>,
    /// Draws the held-out cases with the best and worst scores.
    pub draw_comparison: Option<DrawComparison>,
    /// Set if the run is a trial of a sweep; it is then not published into the model.
    pub trial: Option<TrialRun<'a>>,
    /// Cache of preprocessed cases on disk.
    pub preprocessed_cache: Option<&'a PreprocessedCache>,
    /// The processes that train together. All have the same job; only rank 0 writes, tracks and publishes.
    pub group: Arc<ProcessGroup>,
}

/// The settings of a run that is a trial of a sweep.
#[derive(Clone, Copy)]
pub struct TrialRun<'a> {
    /// The run's folder; an existing run in it is resumed.
    pub folder: &'a Path,
    /// The sweep's name.
    pub parent: &'a str,
    /// The run pauses after this many epochs of each fold.
    pub epochs: usize,
    /// The sweep's data and folds.
    pub data: &'a RunData,
    /// Stage 1's results, shared by all trials.
    pub stage_one: &'a StageOneCache,
}

/// The result of `fit`.
#[derive(Debug, Clone)]
pub struct FitSummary {
    pub run: PathBuf,
    pub model: PathBuf,
    pub folds: Vec<FoldSummary>,
    /// For stage 1: the quality of its regions on held-out cases.
    pub roi: Option<RoiQuality>,
    /// Predictions of the held-out cases; none if disabled.
    pub out_of_fold: Option<OutOfFold>,
    /// The post-processing of the model's label maps.
    pub postprocessing: Option<Postprocessing>,
    /// The diagnosis of each fold's training.
    pub diagnoses: Vec<Diagnosis>,
    pub seconds: f64,
}

impl FitSummary {
    /// The folds alone.
    pub(super) fn new(run: PathBuf, model: &Path, folds: Vec<FoldSummary>) -> Self {
        Self {
            run,
            model: model.to_path_buf(),
            folds,
            roi: None,
            out_of_fold: None,
            postprocessing: None,
            diagnoses: Vec::new(),
            seconds: 0.0,
        }
    }
}

/// A trained fold.
#[derive(Debug, Clone)]
pub struct FoldSummary {
    pub fold: usize,
    pub progress: Progress,
}

/// Stage 1's results on the training cases, by whether they include its probabilities (prior).
pub type StageOneCache = Mutex<BTreeMap<bool, StageOneOutcome>>;

/// Stage 1's results on the training cases; none for stages that work on whole volumes.
#[derive(Clone, Default)]
pub struct StageOneOutcome {
    /// By case index.
    pub(super) results: BTreeMap<usize, StageOneResult>,
    /// Checksum of the stage 1.
    pub(super) sha256: Option<String>,
}
