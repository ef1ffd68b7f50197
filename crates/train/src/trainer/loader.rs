//! Preparation of batches ahead of the training steps.

use std::sync::mpsc::SyncSender;

use super::job::TrainingJob;
use crate::data::sampler::send_share;
use ctseg_base::cancel::guarded;
use ctseg_base::{Error, Result};
use ctseg_engine::batch::Batch;

/// Sends the batches of all epochs from `first` on, of that one all but the first `shown`, until nobody listens
/// any more.
pub(super) fn prepare_batches(
    job: &TrainingJob,
    first: usize,
    shown: u64,
    to: &SyncSender<Result<Option<Batch>>>,
) {
    let epochs = first..job.source.recipe.training.epochs;
    let send = || {
        let mut epochs = epochs;
        epochs.all(|epoch| {
            let shown = if epoch == first { shown } else { 0 };
            let drawn_by = (job.seed, epoch);
            send_share(job.source, job.train, drawn_by, shown, &job.team, to)
        })
    };
    let sent = guarded(|| match job.loader_threads {
        Some(threads) => Ok(loader_pool(threads)?.install(send)),
        None => Ok(send()),
    });
    if let Err(error) = sent {
        let _ = to.send(Err(error)); // the receiver may be gone, and with it who cares
    }
}

fn loader_pool(threads: usize) -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("loader {index}"))
        .build()
        .map_err(|error| {
            Error::invalid(format!(
                "--loader-threads {threads}: the system gives no such threads ({error}); ask for fewer"
            ))
        })
}
