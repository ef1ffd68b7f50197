//! Checkpoints of a learner.

use ctseg_base::{Error, Result};
use ctseg_core::run::checkpoint::{Checkpoint, Progress};
use ctseg_engine::learner::Learner;
use ctseg_engine::weights::NamedTensors;

/// A checkpoint of the weights used for validation, without the training state.
pub(crate) fn inference_checkpoint(
    learner: &dyn Learner,
    progress: &Progress,
) -> Result<Checkpoint> {
    Ok(Checkpoint {
        network: learner.averaged_weights()?,
        optimiser: NamedTensors::new(),
        progress: progress.clone(),
    })
}

/// A checkpoint of everything needed to resume training.
pub(crate) fn checkpoint(learner: &dyn Learner, progress: &Progress) -> Result<Checkpoint> {
    let (state, _) = learner.state()?;
    let weights = learner.weights()?;
    if let Some((name, _)) = weights
        .iter()
        .find(|(_, t)| t.values.iter().any(|v| !v.is_finite()))
    {
        return Err(Error::invalid(format!(
            "training diverged: {name} is not finite; lower training.optimiser.learning_rate and resume"
        )));
    }
    Ok(Checkpoint {
        network: weights,
        optimiser: state,
        progress: progress.clone(),
    })
}
