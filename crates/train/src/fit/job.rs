//! A fit: what it is given, and what comes of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::cross_validation::OutOfFold;
use crate::data::preprocessed_cache::CaseStore;
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
use ctseg_engine::distributed::process_group::Team;

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
    /// See [`crate::trainer::job::TrainingJob::loader_threads`].
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
    /// The sweep's data and folds.
    pub data: &'a RunData,
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

/// Stage 1's results on the training cases, with and without its probabilities, once they were asked for.
pub type StageOneMemory = Mutex<BTreeMap<bool, StageOneOutcome>>;

/// By case, and which stage 1 it was.
pub(super) type StageOneOutcome = (BTreeMap<usize, StageOneResult>, Option<String>);
