//! Starts or resumes a training: network, optimiser, state.

use std::sync::Arc;

use super::job::TrainingJob;
use super::snapshot::checkpoint;
use ctseg_base::Result;
use ctseg_base::progress::Observer;
use ctseg_core::run::checkpoint::{Checkpoint, Progress, StopReason};
use ctseg_engine::learner::{Learner, LearnerSetup};
use ctseg_engine::networks::Network;
use ctseg_engine::weights::{network_tensors, with_tensors};

/// Starts the training on rank 0 and broadcasts its state to the other ranks.
pub(super) fn start_all_ranks(
    job: &TrainingJob,
    observer: &dyn Observer,
) -> Result<(Box<dyn Learner>, Progress)> {
    if job.group.is_single() {
        return start(job, observer);
    }
    let started = job
        .group
        .is_rank_zero()
        .then(|| start(job, observer))
        .transpose();
    let (started, bytes) = job
        .group
        .all_ok(started.and_then(|started| match &started {
            Some((learner, progress)) => {
                let bytes = checkpoint(learner.as_ref(), progress)?.to_bytes()?;
                Ok((started, bytes))
            }
            None => Ok((None, Vec::new())),
        }))?;
    let bytes = job.group.broadcast(bytes)?;
    let own = match started {
        Some(started) => Ok(started),
        None => Checkpoint::from_bytes(&bytes)
            .and_then(|received| Ok((restore_learner(job, &received)?, received.progress))),
    };
    job.group.all_ok(own)
}

/// Initialises the network, or restores the last checkpoint.
fn start(job: &TrainingJob, observer: &dyn Observer) -> Result<(Box<dyn Learner>, Progress)> {
    let training = &job.source.recipe.training;
    job.checkpoints.remove_stopped()?;
    let warn = |line: &str| observer.warn(&format!("{}: {line}", job.name));
    if let Some(mut saved) = job.checkpoints.load_last(&warn)? {
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
        return Ok((restore_learner(job, &saved)?, saved.progress));
    }
    let progress = Progress::new(training.optimiser.learning_rate);
    let fresh = fresh_network(job)?;
    let network = match &job.pretrained {
        Some((pretrained, index)) => {
            let initialised = pretrained.initialise(*index, network_tensors(&fresh)?)?;
            initialised.refuse_frozen_random(training.freeze_encoder_levels)?;
            observer.info(&format!("{}: {}", job.name, initialised.described()));
            with_tensors(fresh, &initialised.weights, &job.compute.device)?
        }
        None => fresh,
    };
    let learner = job.compute.learner(network, setup(job, 0)?)?;
    job.checkpoints
        .save_last(&checkpoint(learner.as_ref(), &progress)?)?;
    Ok((learner, progress))
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

/// The learner saved in a checkpoint.
fn restore_learner(job: &TrainingJob, saved: &Checkpoint) -> Result<Box<dyn Learner>> {
    let network = with_tensors(fresh_network(job)?, &saved.network, &job.compute.device)?;
    let setup = setup(job, saved.progress.epoch)?;
    let steps = saved.progress.optimiser_steps;
    job.compute
        .restored_learner(network, setup, &saved.optimiser, steps)
}

/// Unfreezes the encoder levels if the recipe does so at the current epoch.
pub(super) fn unfreeze(
    job: &TrainingJob,
    learner: &mut Box<dyn Learner>,
    progress: &Progress,
    observer: &dyn Observer,
) -> Result<()> {
    let training = &job.source.recipe.training;
    if training.unfreeze_epoch != Some(progress.epoch) || progress.within.is_some() {
        return Ok(());
    }
    observer.info(&format!(
        "{}: all encoder levels are trained from now on",
        job.name
    ));
    *learner = restore_learner(job, &checkpoint(learner.as_ref(), progress)?)?;
    Ok(())
}

/// A network with random weights that depend on the seed alone.
fn fresh_network(job: &TrainingJob) -> Result<Network> {
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
