//! Reading, segmenting and writing as a pipeline: while a device segments one volume, the next is read and the
//! previous one is written.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};

use crate::case::{Batch, Input, Outcome, Segmented};
use crate::queue::{CaseQueue, QueuedCase};
use crate::record::Record;
use ctseg_base::cancel::{catch_panic, panic_message};
use ctseg_base::limits::spawn::spawn_scoped;
use ctseg_base::memory_semaphore::MemorySemaphore;
use ctseg_base::{Error, Result};

/// The stages of a batch: for each device one thread that reads, one that segments and one that writes; all threads
/// of a kind share one queue. While a device segments one volume, one waits at the reader and one at the writer, if
/// there is memory for them.
///
/// A queue closes when all threads at one of its ends are gone, including after a panic, so that no thread waits
/// forever and the batch ends by itself.
pub(crate) struct Pipeline<'a> {
    pub(super) batch: &'a Batch<'a>,
    pub(super) queue: &'a CaseQueue<'a>,
    pub(super) memory: &'a MemorySemaphore,
    /// Set when the batch cannot continue.
    pub(super) halted: &'a AtomicBool,
}

/// Indices of cases and their outcomes.
type Results = Sender<(usize, Outcome)>;

/// The receiving end of a queue, shared by several threads; it closes when the last of them is gone.
type Shared<T> = Arc<Mutex<Receiver<T>>>;

/// The ends of the queues.
struct Queues<'a> {
    to_segment: SyncSender<(usize, Input<'a>)>,
    read: Shared<(usize, Input<'a>)>,
    to_write: SyncSender<(usize, Segmented<'a>)>,
    segmented: Shared<(usize, Segmented<'a>)>,
    results: Results,
}

/// A thread of the batch.
type Worker<'scope> = ScopedJoinHandle<'scope, ()>;

/// Halts the batch if the thread that holds this panics.
struct HaltsOnPanic<'a>(&'a AtomicBool);

impl Drop for HaltsOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

impl<'a> Pipeline<'a> {
    /// Runs every case through the stages and records it. If threads cannot be started, runs one case at a time on
    /// this one.
    pub(super) fn run<'r>(&self, mut record: Record<'r>) -> Record<'r> {
        match self.overlapping(&mut record) {
            Ok(None) => {}
            Ok(Some(panic)) => record.end_early(&panic),
            Err(error) => {
                let observer = self.batch.observer;
                observer.warn(&format!("processing one volume at a time: {error}"));
                self.one_by_one(&mut record);
            }
        }
        record.close();
        record
    }

    /// Returns the message of the first thread that panicked, if any.
    ///
    /// # Errors
    /// The threads of the first device cannot be started; no case was started.
    fn overlapping(&self, record: &mut Record) -> Result<Option<String>> {
        let _halts = HaltsOnPanic(self.halted);
        std::thread::scope(|scope| {
            let (to_segment, read) = sync_channel(0);
            let (to_write, segmented) = sync_channel(1);
            let (results, outcomes) = channel();
            let queues = Queues {
                to_segment,
                read: Arc::new(Mutex::new(read)),
                to_write,
                segmented: Arc::new(Mutex::new(segmented)),
                results,
            };
            let mut workers = Vec::new();
            let collect = move || record.collect(&outcomes);
            workers.push(self.start(scope, "record", collect)?);
            workers.push(self.start_writer(scope, &queues)?);
            // Started last, so that no case is read if a thread is missing.
            workers.push(self.start_reader(scope, &queues)?);
            for device in 1..self.batch.predictors.len() {
                let more = self.start_device(scope, device, &queues);
                match more {
                    Ok(more) => workers.extend(more),
                    Err(error) => {
                        let name = self.batch.job.computes[device].to_string();
                        let observer = self.batch.observer;
                        observer.warn(&format!("{name} is not used: {error}"));
                    }
                }
            }
            let Queues {
                to_segment,
                read,
                to_write,
                segmented,
                results,
            } = queues;
            drop((to_segment, segmented)); // readers and writers have their own
            // Engines keep settings per thread, so the first device runs on the thread that set it up.
            self.segment_all(0, &read, &to_write, &results);
            drop((read, to_write, results));
            let results = workers.into_iter().map(ScopedJoinHandle::join);
            let panics: Vec<_> = results.filter_map(std::result::Result::err).collect();
            let first = panics.first();
            Ok(first.map(|panic| panic_message(panic.as_ref())))
        })
    }

    /// Starts the threads of another device. A reader or writer that cannot be started is not needed.
    fn start_device<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        device: usize,
        queues: &Queues<'a>,
    ) -> Result<Vec<Worker<'scope>>> {
        let (read, to_write) = (Arc::clone(&queues.read), queues.to_write.clone());
        let results = queues.results.clone();
        let segment = move || self.segment_all(device, &read, &to_write, &results);
        let mut workers = vec![self.start(scope, "segment", segment)?];
        workers.extend(self.start_reader(scope, queues));
        workers.extend(self.start_writer(scope, queues));
        Ok(workers)
    }

    fn start_reader<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        queues: &Queues<'a>,
    ) -> Result<Worker<'scope>> {
        let (to_segment, results) = (queues.to_segment.clone(), queues.results.clone());
        self.start(scope, "read", move || self.read_all(&to_segment, &results))
    }

    fn start_writer<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        queues: &Queues<'a>,
    ) -> Result<Worker<'scope>> {
        let (segmented, results) = (Arc::clone(&queues.segmented), queues.results.clone());
        self.start(scope, "write", move || self.write_all(&segmented, &results))
    }

    fn start<'scope>(
        &self,
        scope: &'scope Scope<'scope, '_>,
        name: &str,
        work: impl FnOnce() + Send + 'scope,
    ) -> Result<Worker<'scope>>
    where
        'a: 'scope,
    {
        let halted = self.halted;
        spawn_scoped(scope, name, move || {
            let _halts = HaltsOnPanic(halted);
            work();
        })
    }

    fn one_by_one(&self, record: &mut Record) {
        while let Some(queued) = self.queue.next(&|| self.stopped()) {
            let index = queued.index;
            let outcome = match self.read(queued) {
                Ok(input) => match self.segmented(0, index, input) {
                    Ok(segmented) => self.written(index, segmented),
                    Err(outcome) => outcome,
                },
                Err(outcome) => outcome,
            };
            record.settle(index, outcome);
            record.poll();
        }
    }

    fn stopped(&self) -> bool {
        let job = self.batch.job;
        let immediate_exit = job.immediate_exit.map(|exit| exit.requested);
        let mut flags = [Some(job.stop), Some(self.halted), immediate_exit].into_iter();
        flags.any(|flag| flag.is_some_and(|flag| flag.load(Ordering::Relaxed)))
    }

    fn read_all(&self, to_segment: &SyncSender<(usize, Input<'a>)>, results: &Results) {
        while let Some(queued) = self.queue.next(&|| self.stopped()) {
            let index = queued.index;
            match self.read(queued) {
                // The receiver ends after this thread, unless it panicked.
                Ok(input) => drop(to_segment.send((index, input))),
                Err(outcome) => send(results, index, outcome),
            }
        }
    }

    fn segment_all(
        &self,
        device: usize,
        read: &Shared<(usize, Input<'a>)>,
        to_write: &SyncSender<(usize, Segmented<'a>)>,
        results: &Results,
    ) {
        while let Some((index, input)) = next(read) {
            match self.segmented(device, index, input) {
                Ok(segmented) => drop(to_write.send((index, segmented))),
                Err(outcome) => send(results, index, outcome),
            }
        }
    }

    fn write_all(&self, segmented: &Shared<(usize, Segmented<'a>)>, results: &Results) {
        while let Some((index, segmented)) = next(segmented) {
            send(results, index, self.written(index, segmented));
        }
    }

    fn read(&self, queued: QueuedCase) -> std::result::Result<Input<'a>, Outcome> {
        let QueuedCase {
            index,
            problem,
            marked_done,
        } = queued;
        if let Some(problem) = problem {
            return Err(Outcome::Failed(problem));
        }
        if marked_done {
            let outcome = catch_panic(|| Ok(self.batch.existing_when_done(index)));
            match outcome {
                Ok(None) => {}
                Ok(Some(outcome)) => return Err(outcome),
                Err(error) => return Err(Outcome::Failed(error)),
            }
            match self.queue.take_again(index) {
                Ok(true) => {}
                Ok(false) => return Err(Outcome::Dropped), // another process has it
                Err(error) => return Err(Outcome::Failed(error)),
            }
        }
        match catch_panic(|| self.batch.read(index, self.memory)) {
            Ok(read) => read,
            Err(error) => Err(Outcome::Failed(error)),
        }
    }

    fn segmented(
        &self,
        device: usize,
        index: usize,
        input: Input<'a>,
    ) -> std::result::Result<Segmented<'a>, Outcome> {
        if self.stopped() {
            return Err(Outcome::Dropped);
        }
        let segmented = catch_panic(|| self.batch.segment(index, input, device, self.halted));
        segmented.map_err(|error| match error {
            Error::Interrupted(_) => Outcome::Dropped,
            error => Outcome::Failed(error),
        })
    }

    fn written(&self, index: usize, segmented: Segmented) -> Outcome {
        if !self.queue.is_ours(index) {
            return Outcome::Dropped;
        }
        catch_panic(|| self.batch.write(index, segmented)).unwrap_or_else(Outcome::Failed)
    }
}

fn send(results: &Results, index: usize, outcome: Outcome) {
    // The record receives until all senders are gone, unless it panicked.
    let _ = results.send((index, outcome));
}

/// The next item of a shared queue; `None` when all senders are gone.
fn next<T>(queue: &Shared<T>) -> Option<T> {
    let queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
    queue.recv().ok()
}
