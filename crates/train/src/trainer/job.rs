//! A training: what it is given, and what comes of it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use crate::data::case_source::CaseSource;
use ctseg_core::model::pretrained::Beginning;
use ctseg_core::run::checkpoint::{CheckpointFolder, Progress};
use ctseg_engine::device::Compute;
use ctseg_engine::distributed::process_group::Team;
use ctseg_engine::weights::NamedTensors;

/// One network to train.
pub struct TrainingJob<'a> {
    pub source: &'a CaseSource<'a>,
    pub train: &'a [usize],
    pub validation: &'a [usize],
    pub checkpoints: CheckpointFolder,
    /// Weights to begin with, and the position of this network among those that are trained.
    pub beginning: Option<(&'a Beginning, usize)>,
    pub compute: &'a Compute,
    pub seed: u64,
    /// Training ends so that it is over by then.
    pub deadline: Option<Instant>,
    /// Set from outside to stop after the step under way.
    pub stop: &'a AtomicBool,
    /// Threads that batches are prepared on, apart from those that compute; shared with them where nothing is
    /// said. Changes no batch.
    pub loader_threads: Option<usize>,
    /// Name in progress bars, such as `fold 0`.
    pub name: String,
    /// Training pauses once so many epochs are done, to be gone on with.
    pub pause_after: Option<usize>,
    /// The processes that train the network together. All have the same job; the first one alone writes.
    pub team: Arc<Team>,
}

/// A trained network: the weights of the epoch that the recipe keeps, averaged where it says so.
pub struct Trained {
    pub weights: NamedTensors,
    pub progress: Progress,
}
