//! The data loader: a thread that prepares batches ahead of the training steps.

use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::Scope;
use std::time::Duration;

use super::job::TrainingJob;
use crate::data::sampler::send_shards;
use ctseg_base::cancel::{catch_panic, check_stop};
use ctseg_base::limits::spawn::spawn_scoped;
use ctseg_base::{Error, Result};
use ctseg_core::run::checkpoint::Progress;
use ctseg_engine::batch::Batch;

/// Number of batches prepared ahead of the network.
const QUEUE: usize = 4;

/// Interval at which the stop flag is checked while waiting for a batch.
const STOP_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The batches of all remaining epochs. Dropping it ends the loader thread.
pub(super) struct Batches<'a> {
    /// `None` at the end of each epoch.
    queue: Receiver<Result<Option<Batch>>>,
    stop: &'a AtomicBool,
}

impl<'a> Batches<'a> {
    /// Starts the loader thread at the position of `progress`.
    pub(super) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        job: &'scope TrainingJob<'a>,
        progress: &Progress,
    ) -> Result<Self> {
        let (to, queue) = sync_channel(QUEUE);
        let first = progress.epoch;
        let skip = progress.within.as_ref().map_or(0, |within| within.batches);
        spawn_scoped(scope, "loader", move || {
            prepare_batches(job, first, skip, &to)
        })?;
        let stop = job.stop;
        Ok(Self { queue, stop })
    }

    /// The next batch; `None` at the end of the epoch. The first one may take long, because several cases are read for
    /// it.
    ///
    /// # Errors
    /// [`Error::Interrupted`] with the text of `position` when stopped; those of the data loader.
    pub(super) fn next_batch(&self, position: impl Fn() -> String) -> Result<Option<Batch>> {
        loop {
            match self.queue.recv_timeout(STOP_POLL_INTERVAL) {
                Ok(Err(Error::Interrupted(_))) | Err(RecvTimeoutError::Timeout) => {
                    check_stop(self.stop, &position)?;
                }
                Ok(batch) => return batch,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::internal("the data-loader thread ended early"));
                }
            }
        }
    }
}

/// Sends the batches of all epochs from `first` on, without the first `skip` batches of that epoch, until the receiver
/// hangs up.
fn prepare_batches(
    job: &TrainingJob,
    first: usize,
    skip: u64,
    to: &SyncSender<Result<Option<Batch>>>,
) {
    let send = || {
        let mut epochs = first..job.source.recipe.training.epochs;
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
