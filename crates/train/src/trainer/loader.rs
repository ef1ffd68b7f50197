//! The data loader: prepares batches ahead of the training steps.

use std::sync::mpsc::SyncSender;

use super::job::TrainingJob;
use crate::data::sampler::send_shards;
use ctseg_base::cancel::catch_panic;
use ctseg_base::{Error, Result};
use ctseg_engine::batch::Batch;

/// Sends the batches of all epochs from `first` on, without the first `skip` batches of that epoch, until the receiver
/// hangs up.
pub(super) fn prepare_batches(
    job: &TrainingJob,
    first: usize,
    skip: u64,
    to: &SyncSender<Result<Option<Batch>>>,
) {
    let epochs = first..job.source.recipe.training.epochs;
    let send = || {
        let mut epochs = epochs;
        epochs.all(|epoch| {
            let skip = if epoch == first { skip } else { 0 };
            let seed = (job.seed, epoch);
            send_shards(job.source, job.train, seed, skip, &job.group, to)
        })
    };
    let sent = catch_panic(|| match job.loader_threads {
        Some(threads) => Ok(loader_pool(threads)?.install(send)),
        None => Ok(send()),
    });
    if let Err(error) = sent {
        let _ = to.send(Err(error)); // fails if the training has already ended
    }
}

fn loader_pool(threads: usize) -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("loader {index}"))
        .build()
        .map_err(|error| {
            Error::invalid(format!(
                "--loader-threads {threads}: cannot start the threads ({error}); use fewer"
            ))
        })
}
