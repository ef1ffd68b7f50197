//! Reading, segmenting and writing as stages that overlap: while a device segments one volume, the next is read
//! and the last one written.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};

use crate::case::{Batch, Ended, Input, Segmented};
use crate::queue::Supply;
use crate::record::Record;
use ctseg_base::Error;
use ctseg_base::cancel::guarded;
use ctseg_base::memory_semaphore::Gate;

/// The stages of a batch: for each device a thread that reads, one that segments and one that writes, all of a kind
/// fed from one queue. Beside the volume that a device works on, one waits in the hands of the reader and one for
/// the writer, if there is memory for them.
pub(crate) struct Pipeline<'a> {
    pub(super) batch: &'a Batch<'a>,
    pub(super) supply: &'a Supply<'a>,
    pub(super) memory: &'a Gate,
    /// Set when the batch cannot go on.
    pub(super) halted: &'a AtomicBool,
}

/// Cases and what came of them.
type Results = Sender<(usize, Ended)>;

impl<'a> Pipeline<'a> {
    /// Takes every case through the stages; `record` hears of each.
    pub(super) fn run<'r>(&self, mut record: Record<'r>) -> Record<'r> {
        let (to_workers, read) = sync_channel(0);
        let (to_writers, segmented) = sync_channel(1);
        let (results, ended) = channel();
        let (read, segmented) = (&Mutex::new(read), &Mutex::new(segmented));
        std::thread::scope(|scope| {
            let keeper = scope.spawn(move || {
                record.keep(&ended);
                record
            });
            for device in 0..self.batch.predictors.len() {
                let (to, of) = (to_workers.clone(), results.clone());
                scope.spawn(move || self.read_all(&to, &of));
                let of = results.clone();
                scope.spawn(move || self.write_all(segmented, &of));
                if device > 0 {
                    let (to, of) = (to_writers.clone(), results.clone());
                    scope.spawn(move || self.segment_all(device, read, &to, &of));
                }
            }
            drop(to_workers); // the readers' own are left
            // Engines keep settings per thread: the first device works where it was set up.
            self.segment_all(0, read, &to_writers, &results);
            drop((to_writers, results));
            match keeper.join() {
                Ok(record) => record,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    fn stopped(&self) -> bool {
        let job = self.batch.job;
        let leaving = job.leaving.map(|leaving| leaving.asked);
        let mut flags = [Some(job.stop), Some(self.halted), leaving].into_iter();
        flags.any(|flag| flag.is_some_and(|flag| flag.load(Ordering::Relaxed)))
    }

    fn read_all(&self, to_workers: &SyncSender<(usize, Input<'a>)>, results: &Results) {
        while let Some(handed) = self.supply.next(&|| self.stopped()) {
            let index = handed.index;
            let read = || match handed.problem {
                Some(error) => Err(error),
                None => self.batch.read(index, self.memory),
            };
            match guarded(read) {
                // The other side ends after this one.
                Ok(Some(input)) => drop(to_workers.send((index, input))),
                Ok(None) => tell(results, index, Ended::Kept),
                Err(error) => tell(results, index, Ended::Failed(error)),
            }
        }
    }

    fn segment_all(
        &self,
        device: usize,
        read: &Mutex<Receiver<(usize, Input<'a>)>>,
        to_writers: &SyncSender<(usize, Segmented<'a>)>,
        results: &Results,
    ) {
        while let Some((index, input)) = next(read) {
            if self.stopped() {
                tell(results, index, Ended::Dropped);
                continue;
            }
            match guarded(|| self.batch.segment(index, input, device)) {
                Ok(segmented) => drop(to_writers.send((index, segmented))),
                Err(Error::Interrupted(_)) => tell(results, index, Ended::Dropped),
                Err(error) => tell(results, index, Ended::Failed(error)),
            }
        }
    }

    fn write_all(&self, segmented: &Mutex<Receiver<(usize, Segmented<'a>)>>, results: &Results) {
        while let Some((index, segmented)) = next(segmented) {
            if !self.supply.is_ours(index) {
                tell(results, index, Ended::Dropped);
                continue;
            }
            let ended = match guarded(|| self.batch.write(index, segmented)) {
                Ok(sidecar) => Ended::Written(Box::new(sidecar)),
                Err(error) => Ended::Failed(error),
            };
            tell(results, index, ended);
        }
    }
}

fn tell(results: &Results, index: usize, ended: Ended) {
    // The record listens until all have told.
    let _ = results.send((index, ended));
}

/// The next of a queue that several threads share; none when those that fill it have ended.
fn next<T>(queue: &Mutex<Receiver<T>>) -> Option<T> {
    let queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
    queue.recv().ok()
}
