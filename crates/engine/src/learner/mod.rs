//! A network that learns: weights, loss and optimiser on one engine. Burn's engines compute gradients by
//! Burn's autodiff (`burn_learner`), libtorch by its own (`libtorch`); training sees one.

pub(crate) mod all_reduce;
pub(crate) mod burn_learner;
pub(crate) mod ema;
#[cfg(test)]
pub(crate) mod golden_average;

use std::sync::Arc;

use crate::batch::Batch;
use crate::distributed::process_group::Team;
use crate::losses::Loss;
use crate::networks::Network;
use crate::optim::OptimiserConfig;
use crate::weights::NamedTensors;
use ctseg_base::Result;

/// How a network learns.
#[derive(Debug, Clone, PartialEq)]
pub struct LearnerSetup {
    pub loss: Loss,
    pub optimiser: OptimiserConfig,
    /// Whether activations are computed again on the way back instead of being kept (libtorch): about half
    /// the memory for a third more time.
    pub recompute: bool,
    /// In how many parts each batch passes through the network (libtorch): less memory, the same gradient
    /// but for the statistics of batch normalisation, which are those of each part.
    pub micro_batches: usize,
    /// How much of the weights' average over the steps is left after one more step, in (0, 1); less in the
    /// first steps. Without it no average is kept.
    pub weight_average: Option<f64>,
    /// So many levels of the encoder, the finest first, stay as they are, see [`freezing`](super::freezing).
    pub frozen_levels: usize,
    /// Whether batch normalisations see the whole batch that processes share (libtorch), and not their own share.
    pub sync_norms: bool,
    /// The processes that each batch is shared by.
    pub team: Arc<Team>,
}

/// What a step did.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    pub loss: f64,
    /// Before clipping. Where it is not finite, the step was left out.
    pub gradient_norm: f64,
    /// Something that the user should hear of, such as a batch that had to be split.
    pub note: Option<String>,
}

impl StepReport {
    /// Whether the weights followed the gradient.
    pub fn is_taken(&self) -> bool {
        self.loss.is_finite() && self.gradient_norm.is_finite()
    }
}

/// See the module's first lines. [`Compute::learner`](super::device::Compute::learner) makes one.
pub trait Learner {
    /// One step at learning rate `rate` along the gradient of `batch`'s loss. `seed` decides what dropout
    /// drops.
    fn step(&mut self, batch: &Batch, rate: f64, seed: u64) -> Result<StepReport>;

    /// The network to be used and not trained: with the averaged weights where an average is kept, else as
    /// it stands.
    fn network(&self) -> Result<Network>;

    /// The weights and running statistics as they stand, from which training goes on.
    fn weights(&self) -> Result<NamedTensors>;

    /// The weights and running statistics of [`Learner::network`].
    fn averaged_weights(&self) -> Result<NamedTensors>;

    /// The steps taken so far.
    fn steps(&self) -> u64;

    /// What the optimiser remembers, the averaged weights where an average is kept, and the number of steps taken.
    fn state(&self) -> Result<(NamedTensors, u64)>;
}
