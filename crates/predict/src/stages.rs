//! Reading, segmenting and writing as stages that overlap: while a device segments one volume, the next is read
//! and the last one written.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};

use crate::case::{Batch, Ended, Input, Segmented};
use crate::queue::{Handed, Supply};
use crate::record::Record;
use ctseg_base::cancel::{guarded, panic_in_words};
use ctseg_base::limits::spawn::spawn_scoped;
use ctseg_base::memory_semaphore::Gate;
use ctseg_base::{Error, Result};

/// The stages of a batch: for each device a thread that reads, one that segments and one that writes, all of a kind
/// fed from one queue. Beside the volume that a device works on, one waits in the hands of the reader and one for
/// the writer, if there is memory for them.
///
/// Every queue closes when all threads at one of its ends are gone, also where one of them panics, and no thread waits
/// for another one beyond that: a batch whose thread died ends by itself.
pub(crate) struct Pipeline<'a> {
    pub(super) batch: &'a Batch<'a>,
    pub(super) supply: &'a Supply<'a>,
    pub(super) memory: &'a Gate,
    /// Set when the batch cannot go on.
    pub(super) halted: &'a AtomicBool,
}

/// Cases and what came of them.
type Results = Sender<(usize, Ended)>;

/// A queue that several threads take from; it closes when the last of them is gone.
type Shared<T> = Arc<Mutex<Receiver<T>>>;

/// The ends of the queues that a thread may hold.
struct Queues<'a> {
    to_segment: SyncSender<(usize, Input<'a>)>,
    read: Shared<(usize, Input<'a>)>,
    to_write: SyncSender<(usize, Segmented<'a>)>,
    segmented: Shared<(usize, Segmented<'a>)>,
    results: Results,
}

/// A thread of the batch.
type Worker<'scope> = ScopedJoinHandle<'scope, ()>;

/// Halts the batch where the thread that holds this one dies.
struct HaltsOnPanic<'a>(&'a AtomicBool);

impl Drop for HaltsOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

impl<'a> Pipeline<'a> {
    /// Takes every case through the stages; `record` hears of each. Where the system gives no threads for that, one case
    /// after the other on this one.
    pub(super) fn run<'r>(&self, mut record: Record<'r>) -> Record<'r> {
        match self.overlapping(&mut record) {
            Ok(None) => {}
            Ok(Some(death)) => record.end_early(&death),
            Err(error) => {
                let observer = self.batch.observer;
                observer.warn(&format!("one volume at a time: {error}"));
                self.one_by_one(&mut record);
            }
        }
        record.close();
        record
    }

    /// How a thread of the batch died, if one did.
    ///
    /// # Errors
    /// The threads of the first device cannot be started; nothing was begun.
    fn overlapping(&self, record: &mut Record) -> Result<Option<String>> {
        let _halts = HaltsOnPanic(self.halted);
        std::thread::scope(|scope| {
            let (to_segment, read) = sync_channel(0);
            let (to_write, segmented) = sync_channel(1);
            let (results, ended) = channel();
            let queues = Queues {
                to_segment,
                read: Arc::new(Mutex::new(read)),
                to_write,
                segmented: Arc::new(Mutex::new(segmented)),
                results,
            };
            let mut workers = Vec::new();
            let keeps = move || record.listen(&ended);
            workers.push(self.start(scope, "record", keeps)?);
            workers.push(self.start_writer(scope, &queues)?);
            // The last one, so that nothing has begun where one is missing.
            workers.push(self.start_reader(scope, &queues)?);
            for device in 1..self.batch.predictors.len() {
                let more = self.start_device(scope, device, &queues);
                match more {
                    Ok(more) => workers.extend(more),
                    Err(error) => {
                        let name = self.batch.job.computes[device].to_string();
                        let observer = self.batch.observer;
                        observer.warn(&format!("{name} takes no part: {error}"));
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
            drop((to_segment, segmented)); // the readers' and writers' own are left
            // Engines keep settings per thread: the first device works where it was set up.
            self.segment_all(0, &read, &to_write, &results);
            drop((read, to_write, results));
            let ends = workers.into_iter().map(ScopedJoinHandle::join);
            let deaths: Vec<_> = ends.filter_map(std::result::Result::err).collect();
            let first = deaths.first();
            Ok(first.map(|panic| panic_in_words(panic.as_ref())))
        })
    }

    /// The threads of another device: as far as they can be started, they help the others.
    fn start_device<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        device: usize,
        queues: &Queues<'a>,
    ) -> Result<Vec<Worker<'scope>>> {
        let (read, to_write) = (Arc::clone(&queues.read), queues.to_write.clone());
        let results = queues.results.clone();
        let segments = move || self.segment_all(device, &read, &to_write, &results);
        let mut workers = vec![self.start(scope, "segment", segments)?];
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
        while let Some(handed) = self.supply.next(&|| self.stopped()) {
            let index = handed.index;
            let ended = match self.read(handed) {
                Ok(input) => match self.segmented(0, index, input) {
                    Ok(segmented) => self.written(index, segmented),
                    Err(ended) => ended,
                },
                Err(ended) => ended,
            };
            record.settle(index, ended);
            record.look_around();
        }
    }

    fn stopped(&self) -> bool {
        let job = self.batch.job;
        let leaving = job.leaving.map(|leaving| leaving.asked);
        let mut flags = [Some(job.stop), Some(self.halted), leaving].into_iter();
        flags.any(|flag| flag.is_some_and(|flag| flag.load(Ordering::Relaxed)))
    }

    fn read_all(&self, to_segment: &SyncSender<(usize, Input<'a>)>, results: &Results) {
        while let Some(handed) = self.supply.next(&|| self.stopped()) {
            let index = handed.index;
            match self.read(handed) {
                // The other side ends after this one, unless it died.
                Ok(input) => drop(to_segment.send((index, input))),
                Err(ended) => tell(results, index, ended),
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
                Err(ended) => tell(results, index, ended),
            }
        }
    }

    fn write_all(&self, segmented: &Shared<(usize, Segmented<'a>)>, results: &Results) {
        while let Some((index, segmented)) = next(segmented) {
            tell(results, index, self.written(index, segmented));
        }
    }

    fn read(&self, handed: Handed) -> std::result::Result<Input<'a>, Ended> {
        let Handed {
            index,
            problem,
            remembered,
        } = handed;
        if let Some(problem) = problem {
            return Err(Ended::Failed(problem));
        }
        if remembered {
            let ended = guarded(|| Ok(self.batch.ended_before(index, true)));
            match ended {
                Ok(None) => {}
                Ok(Some(ended)) => return Err(ended),
                Err(error) => return Err(Ended::Failed(error)),
            }
            match self.supply.take_anew(index) {
                Ok(true) => {}
                Ok(false) => return Err(Ended::Dropped), // another process makes it
                Err(error) => return Err(Ended::Failed(error)),
            }
        }
        match guarded(|| self.batch.read(index, self.memory)) {
            Ok(read) => read,
            Err(error) => Err(Ended::Failed(error)),
        }
    }

    fn segmented(
        &self,
        device: usize,
        index: usize,
        input: Input<'a>,
    ) -> std::result::Result<Segmented<'a>, Ended> {
        if self.stopped() {
            return Err(Ended::Dropped);
        }
        let segmented = guarded(|| self.batch.segment(index, input, device, self.halted));
        segmented.map_err(|error| match error {
            Error::Interrupted(_) => Ended::Dropped,
            error => Ended::Failed(error),
        })
    }

    fn written(&self, index: usize, segmented: Segmented) -> Ended {
        if !self.supply.is_ours(index) {
            return Ended::Dropped;
        }
        guarded(|| self.batch.write(index, segmented)).unwrap_or_else(Ended::Failed)
    }
}

fn tell(results: &Results, index: usize, ended: Ended) {
    // The record listens until all have told, unless it died.
    let _ = results.send((index, ended));
}

/// The next of a queue that several threads share; none when those that fill it have ended.
fn next<T>(queue: &Shared<T>) -> Option<T> {
    let queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
    queue.recv().ok()
}
