//! Training of a network on one engine: weights, loss and optimiser. Gradients come from Burn's autodiff
//! (`burn_learner`) or libtorch's autograd (`libtorch`), behind one trait.

pub(crate) mod all_reduce;
pub(crate) mod burn_learner;
pub(crate) mod ema;
#[cfg(test)]
pub(crate) mod golden_average;

use std::sync::Arc;

use crate::batch::Batch;
use crate::distributed::process_group::ProcessGroup;
use crate::losses::Loss;
use crate::networks::Network;
use crate::optim::OptimiserConfig;
use crate::weights::NamedTensors;
use ctseg_base::Result;

#[derive(Debug, Clone, PartialEq)]
pub struct LearnerSetup {
    pub loss: Loss,
    pub optimiser: OptimiserConfig,
    /// Gradient checkpointing (libtorch): recomputes activations in the backward pass instead of storing them. About
    /// half the memory for a third more time.
    pub recompute: bool,
    /// Number of micro-batches per batch (libtorch): less memory and the same gradient, except that batch
    /// normalisation uses the statistics of each micro-batch.
    pub micro_batches: usize,
    /// Decay of the moving average of the weights, in (0, 1); less in the first steps. `None` disables the average.
    pub weight_average: Option<f64>,
    /// Number of frozen encoder levels, finest first, see [`freezing`](super::freezing).
    pub frozen_levels: usize,
    /// Synchronised batch normalisation (libtorch): statistics over the whole batch instead of each process's share.
    pub sync_norms: bool,
    /// The processes that share each batch.
    pub group: Arc<ProcessGroup>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    pub loss: f64,
    /// Before clipping. If it is not finite, the step was skipped.
    pub gradient_norm: f64,
    /// A note for the user, such as a batch that had to be split.
    pub note: Option<String>,
}

impl StepReport {
    /// Whether the weights were updated.
    pub fn is_taken(&self) -> bool {
        self.loss.is_finite() && self.gradient_norm.is_finite()
    }
}

/// A network in training, see the module's documentation. Created by
/// [`Compute::learner`](super::device::Compute::learner).
pub trait Learner {
    /// Takes one step at learning rate `rate` on the loss of `batch`. `seed` determines dropout, together
    /// with the rank.
    fn step(&mut self, batch: &Batch, rate: f64, seed: u64) -> Result<StepReport>;

    /// The network for inference: with averaged weights if an average is kept, otherwise with the current weights.
    fn network(&self) -> Result<Network>;

    /// The current weights and running statistics, from which training resumes.
    fn weights(&self) -> Result<NamedTensors>;

    /// The weights and running statistics of [`Learner::network`].
    fn averaged_weights(&self) -> Result<NamedTensors>;

    /// Number of steps taken.
    fn steps(&self) -> u64;

    /// The optimiser's state, the averaged weights if an average is kept, and the number of steps taken.
    fn state(&self) -> Result<(NamedTensors, u64)>;
}
