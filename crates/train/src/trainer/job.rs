//! The input and result of training one network.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use crate::data::case_source::CaseSource;
use ctseg_core::model::pretrained::PretrainedWeights;
use ctseg_core::run::checkpoint::{CheckpointFolder, Progress};
use ctseg_engine::device::Compute;
use ctseg_engine::distributed::process_group::ProcessGroup;
use ctseg_engine::weights::NamedTensors;

/// One network to train.
pub struct TrainingJob<'a> {
    pub source: &'a CaseSource<'a>,
    pub train: &'a [usize],
    pub validation: &'a [usize],
    pub checkpoints: CheckpointFolder,
    /// Weights to initialise from.
    pub pretrained: Option<&'a PretrainedWeights>,
    /// Index of this network among those being trained.
    pub index: usize,
    pub compute: &'a Compute,
    pub seed: u64,
    /// Training, including validation, ends before this time.
    pub deadline: Option<Instant>,
    /// Set to stop after the current step.
    pub stop: &'a AtomicBool,
    /// Data-loader threads, separate from the compute threads; none to share those. Results do not depend on them.
    pub loader_threads: Option<usize>,
    /// Name in progress bars, such as `fold 0`.
    pub name: String,
    /// Training pauses after this many epochs and can be resumed.
    pub pause_after: Option<usize>,
    /// The processes that train the network together. All have the same job; only rank 0 writes files.
    pub group: Arc<ProcessGroup>,
}

/// A trained network: the weights of the epoch selected by `training.keep`, averaged if the recipe says so.
pub struct Trained {
    pub weights: NamedTensors,
    pub progress: Progress,
}
