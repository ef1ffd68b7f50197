//! How a training begins: network, optimiser, state, resume.

use std::sync::Arc;

use super::job::TrainingJob;
use super::snapshot::checkpoint;
use ctseg_base::Result;
use ctseg_base::progress::Observer;
use ctseg_core::run::checkpoint::{Checkpoint, Ended, Progress};
use ctseg_engine::learner::{Learner, LearnerSetup};
use ctseg_engine::networks::Network;
use ctseg_engine::weights::{network_tensors, with_tensors};

/// What all processes begin with is what the first one has.
pub(super) fn begun_together(
    job: &TrainingJob,
    observer: &dyn Observer,
) -> Result<(Box<dyn Learner>, Progress)> {
    if job.team.is_alone() {
        return begin(job, observer);
    }
    let begun = job.team.leads().then(|| begin(job, observer)).transpose();
    let told = job.team.together(begun.and_then(|begun| match &begun {
        Some((learner, progress)) => {
            let bytes = checkpoint(learner.as_ref(), progress)?.to_bytes()?;
            Ok((begun, bytes))
        }
        None => Ok((None, Vec::new())),
    }))?;
    let (begun, bytes) = told;
    let bytes = job.team.told(bytes)?;
    let own = match begun {
        Some(begun) => Ok(begun),
        None => Checkpoint::from_bytes(&bytes)
            .and_then(|told| Ok((restored(job, &told)?, told.progress))),
    };
    job.team.together(own)
}

/// Fresh weights, or everything as the last checkpoint left it.
fn begin(job: &TrainingJob, observer: &dyn Observer) -> Result<(Box<dyn Learner>, Progress)> {
    let training = &job.source.recipe.training;
    job.checkpoints.forget_stopped()?;
    let warn = |line: &str| observer.warn(&format!("{}: {line}", job.name));
    if let Some(mut saved) = job.checkpoints.load_last(&warn)? {
        let done = saved.progress.within.is_none() && saved.progress.epoch >= training.epochs;
        match saved.progress.ended {
            Some(Ended::TimeIsUp) => saved.progress.ended = None, // whoever resumes has time again
            None if done => saved.progress.ended = Some(Ended::AllEpochsDone),
            _ => {}
        }
        if saved.progress.ended.is_none() {
            let place = saved.progress.place();
            observer.say(&format!("{}: goes on from {place}", job.name));
        }
        return Ok((restored(job, &saved)?, saved.progress));
    }
    let progress = Progress::new(training.optimiser.learning_rate);
    let fresh = fresh_network(job)?;
    let network = match &job.beginning {
        Some((beginning, index)) => {
            let taken = beginning.taken_over(*index, network_tensors(&fresh)?)?;
            taken.refuse_frozen_anew(training.freeze_encoder_levels)?;
            observer.say(&format!("{}: {}", job.name, taken.described()));
            with_tensors(fresh, &taken.weights, &job.compute.device)?
        }
        None => fresh,
    };
    let learner = job.compute.learner(network, setup(job, 0)?)?;
    job.checkpoints
        .save_last(&checkpoint(learner.as_ref(), &progress)?)?;
    Ok((learner, progress))
}

/// How the network learns in the epoch after `epochs` epochs.
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
        team: Arc::clone(&job.team),
    })
}

/// The learner that a checkpoint tells of.
fn restored(job: &TrainingJob, saved: &Checkpoint) -> Result<Box<dyn Learner>> {
    let network = with_tensors(fresh_network(job)?, &saved.network, &job.compute.device)?;
    let setup = setup(job, saved.progress.epoch)?;
    let steps = saved.progress.optimiser_steps;
    job.compute
        .restored_learner(network, setup, &saved.optimiser, steps)
}

/// Unfreezes frozen levels from the next epoch on, where the recipe says so.
pub(super) fn thaw(
    job: &TrainingJob,
    learner: &mut Box<dyn Learner>,
    progress: &Progress,
    observer: &dyn Observer,
) -> Result<()> {
    let training = &job.source.recipe.training;
    if training.unfreeze_epoch != Some(progress.epoch) || progress.within.is_some() {
        return Ok(());
    }
    observer.say(&format!(
        "{}: from here on all levels of the encoder learn",
        job.name
    ));
    *learner = restored(job, &checkpoint(learner.as_ref(), progress)?)?;
    Ok(())
}

/// A network whose weights follow from the seed.
fn fresh_network(job: &TrainingJob) -> Result<Network> {
    let device = &job.compute.device;
    device.seed(job.seed);
    let recipe = job.source.recipe;
    let network = recipe
        .network
        .init(recipe.channels(), job.source.outputs(), device)?;
    // Burn draws weights when they are first used; they are drawn here, in the order of their names.
    network_tensors(&network)?;
    Ok(network)
}
