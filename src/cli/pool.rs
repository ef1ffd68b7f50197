//! The compute threads of all commands: as many as requested, or as the system allows.

use std::sync::mpsc::channel;
use std::time::Duration;

use rayon::{ThreadBuilder, ThreadPoolBuilder};

use ctseg_base::limits::spawn::{spawn, thread_count};
use ctseg_base::progress::Observer;
use ctseg_base::{Error, Result};

/// Threads that a command may need besides the compute threads: batches, signals, MLflow, metrics.
const BESIDE: usize = 8;

/// libtorch has its own compute threads.
const HAS_OWN_THREADS: bool = cfg!(feature = "libtorch");

/// Starts rayon's global pool, which readers, resampling and augmentation share, with up to `threads` threads. If the
/// system allows fewer, some are kept free for other work and a warning is issued. Returns the number started.
///
/// # Errors
/// No thread can be started.
pub(super) fn start(threads: usize, observer: &dyn Observer) -> Result<usize> {
    let own = if HAS_OWN_THREADS { threads } else { 0 };
    let beside = BESIDE + own;
    let before = thread_count();
    // Start the threads first, then build the pool from them: if rayon fails to start one of its threads, there is no
    // global pool for the rest of the process.
    let (mut waiting, mut handles, mut refused) = (Vec::new(), Vec::new(), None);
    while waiting.len() < threads + beside && refused.is_none() {
        let (to, given) = channel::<ThreadBuilder>();
        let become_of_pool = move || {
            if let Ok(thread) = given.recv() {
                thread.run();
            }
        };
        match spawn("compute", become_of_pool) {
            Ok(handle) => {
                waiting.push(to);
                handles.push(handle);
            }
            Err(error) => refused = Some(error),
        }
    }
    let count = match waiting.len().saturating_sub(beside) {
        0 => waiting.len().min(1),
        count => count.min(threads),
    };
    if count == 0 {
        return Err(refused.unwrap_or_else(|| Error::usage("--threads 0: expected 1 or more")));
    }
    waiting.truncate(count);
    for handle in handles.drain(count..) {
        let _ = handle.join(); // its channel is closed
    }
    if let (Some(error), Some(before)) = (refused, before) {
        until_threads_are(before + count);
        if count < threads {
            observer.warn(&format!("using {count} of {threads} threads: {error}"));
        }
    }
    let built = ThreadPoolBuilder::new()
        .num_threads(count)
        .spawn_handler(move |thread| {
            let next = waiting.pop();
            let given = next.map(|to| to.send(thread).is_ok());
            match given {
                Some(true) => Ok(()),
                _ => Err(std::io::Error::other("a thread has ended")),
            }
        })
        .build_global();
    built.map_err(|error| Error::invalid(format!("cannot start the compute threads: {error}")))?;
    Ok(count)
}

/// Waits until joined threads are gone: the kernel counts them a moment longer and would refuse new ones.
fn until_threads_are(count: usize) {
    for _ in 0..200 {
        if thread_count().is_none_or(|threads| threads <= count) {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
