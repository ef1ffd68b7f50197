//! The state of a training: initialised, resumed, saved.

use std::sync::Arc;

use super::job::TrainingJob;
use ctseg_base::progress::Observer;
use ctseg_base::{Error, Result};
use ctseg_core::run::checkpoint::{Checkpoint, Progress, StopReason};
use ctseg_engine::learner::{Learner, LearnerSetup};
use ctseg_engine::networks::Network;
use ctseg_engine::weights::{NamedTensors, network_tensors, with_tensors};

/// What a checkpoint holds.
pub(super) struct TrainingState {
    /// Network and optimiser.
    pub learner: Box<dyn Learner>,
    pub progress: Progress,
}

/// Starts the training on rank 0, or resumes it from its last checkpoint, and shares its state with the other ranks.
pub(super) fn start(job: &TrainingJob, observer: &dyn Observer) -> Result<TrainingState> {
    job.group.from_rank_zero(
        || match resumed(job, observer)? {
            Some(state) => Ok(state),
            None => initialised(job, observer),
        },
        |state| checkpoint(state.learner.as_ref(), &state.progress)?.to_bytes(),
        |bytes| restored(job, Checkpoint::from_bytes(bytes)?),
    )
}

/// The state of the last checkpoint, if there is one.
fn resumed(job: &TrainingJob, observer: &dyn Observer) -> Result<Option<TrainingState>> {
    let training = &job.source.recipe.training;
    job.checkpoints.remove_stopped()?;
    let warn = |line: &str| observer.warn(&format!("{}: {line}", job.name));
    let Some(mut saved) = job.checkpoints.load_last(&warn)? else {
        return Ok(None);
    };
    let done = saved.progress.within.is_none() && saved.progress.epoch >= training.epochs;
    match saved.progress.ended {
        Some(StopReason::TimeLimit) => saved.progress.ended = None, // the resumed run has a new time limit
        None if done => saved.progress.ended = Some(StopReason::AllEpochsDone),
        _ => {}
    }
    if saved.progress.ended.is_none() {
        let position = saved.progress.position_text();
        observer.info(&format!("{}: resuming from {position}", job.name));
    }
    restored(job, saved).map(Some)
}

/// A new network, with random or pretrained weights.
fn initialised(job: &TrainingJob, observer: &dyn Observer) -> Result<TrainingState> {
    let training = &job.source.recipe.training;
    let random = random_network(job)?;
    let network = match job.pretrained {
        Some(pretrained) => {
            let initialised = pretrained.initialise(job.index, network_tensors(&random)?)?;
            initialised.refuse_frozen_random(training.freeze_encoder_levels)?;
            observer.info(&format!("{}: {}", job.name, initialised.described()));
            with_tensors(random, &initialised.weights, &job.compute.device)?
        }
        None => random,
    };
    let learner = job.compute.learner(network, setup(job, 0)?)?;
    let progress = Progress::new(training.optimiser.learning_rate);
    job.checkpoints
        .save_last(&checkpoint(learner.as_ref(), &progress)?)?;
    Ok(TrainingState { learner, progress })
}

/// The learner settings after `epochs` epochs.
fn setup(job: &TrainingJob, epochs: usize) -> Result<LearnerSetup> {
    let training = &job.source.recipe.training;
    Ok(LearnerSetup {
        loss: job.source.loss()?,
        optimiser: training.optimiser.clone(),
        recompute: training.recompute,
        micro_batches: training.micro_batches,
        weight_average: training.weight_average,
        frozen_levels: training.frozen_levels(epochs),
        sync_norms: training.sync_norms,
        group: Arc::clone(&job.group),
    })
}

/// The state saved in a checkpoint.
pub(super) fn restored(job: &TrainingJob, saved: Checkpoint) -> Result<TrainingState> {
    let network = with_tensors(random_network(job)?, &saved.network, &job.compute.device)?;
    let setup = setup(job, saved.progress.epoch)?;
    let steps = saved.progress.optimiser_steps;
    let learner = job
        .compute
        .restored_learner(network, setup, &saved.optimiser, steps)?;
    Ok(TrainingState {
        learner,
        progress: saved.progress,
    })
}

/// A network with random weights that depend on the seed alone.
fn random_network(job: &TrainingJob) -> Result<Network> {
    let device = &job.compute.device;
    device.seed(job.seed);
    let recipe = job.source.recipe;
    let network = recipe
        .network
        .init(recipe.channels(), job.source.outputs(), device)?;
    // Burn draws weights lazily on first use; this draws them now, in the order of their names.
    network_tensors(&network)?;
    Ok(network)
}

/// A checkpoint of everything needed to resume training.
///
/// # Errors
/// A weight is not finite.
pub(super) fn checkpoint(learner: &dyn Learner, progress: &Progress) -> Result<Checkpoint> {
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

/// A checkpoint of the weights used for validation, without the training state.
pub(super) fn inference_checkpoint(
    learner: &dyn Learner,
    progress: &Progress,
) -> Result<Checkpoint> {
    Ok(Checkpoint {
        network: learner.averaged_weights()?,
        optimiser: NamedTensors::new(),
        progress: progress.clone(),
    })
}
