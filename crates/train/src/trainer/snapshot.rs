//! Checkpoints and the weights in use.

use ctseg_base::{Error, Result};
use ctseg_core::run::checkpoint::{Checkpoint, Progress};
use ctseg_engine::learner::Learner;
use ctseg_engine::weights::NamedTensors;

/// What was validated, without what only training needs.
pub(crate) fn in_use(learner: &dyn Learner, progress: &Progress) -> Result<Checkpoint> {
    Ok(Checkpoint {
        network: learner.averaged_weights()?,
        optimiser: NamedTensors::new(),
        progress: progress.clone(),
    })
}

/// Everything that training goes on from.
pub(crate) fn checkpoint(learner: &dyn Learner, progress: &Progress) -> Result<Checkpoint> {
    let (state, _) = learner.state()?;
    let weights = learner.weights()?;
    if let Some((name, _)) = weights
        .iter()
        .find(|(_, t)| t.values.iter().any(|v| !v.is_finite()))
    {
        return Err(Error::invalid(format!(
            "training failed: {name} is no longer finite; lower training.optimiser.learning_rate and resume"
        )));
    }
    Ok(Checkpoint {
        network: weights,
        optimiser: state,
        progress: progress.clone(),
    })
}
