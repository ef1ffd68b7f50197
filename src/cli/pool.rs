//! The threads that all commands compute with: as many as were asked for, or as the system gives.

use std::sync::mpsc::channel;
use std::time::Duration;

use rayon::{ThreadBuilder, ThreadPoolBuilder};

use ctseg_base::limits::spawn::{own_threads, spawn};
use ctseg_base::progress::Observer;
use ctseg_base::{Error, Result};

/// Threads that a command may need beside those that compute: a batch's, signals, MLflow, figures.
const BESIDE: usize = 8;

/// libtorch computes on threads of its own.
const HAS_OWN_THREADS: bool = cfg!(feature = "libtorch");

/// Starts rayon's global pool, which readers, resampling and augmentation share, with up to `threads` threads. Where the
/// system gives fewer, some are left for other work, and that is said. The number that were started.
///
/// # Errors
/// The system gives no thread at all.
pub(super) fn start(threads: usize, observer: &dyn Observer) -> Result<usize> {
    let own = if HAS_OWN_THREADS { threads } else { 0 };
    let beside = BESIDE + own;
    let before = own_threads();
    // Each waits to become one of the pool's: a pool that could not start all of its threads would leave rayon without
    // one for good.
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
        let _ = handle.join(); // it has waited for nothing
    }
    if let (Some(error), Some(before)) = (refused, before) {
        until_threads_are(before + count);
        if count < threads {
            observer.warn(&format!(
                "computing with {count} of {threads} threads: {error}"
            ));
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
    built.map_err(|error| {
        Error::invalid(format!("cannot start the threads to compute with: {error}"))
    })?;
    Ok(count)
}

/// The kernel counts a thread that was joined a moment longer, and would refuse another one in its place.
fn until_threads_are(count: usize) {
    for _ in 0..200 {
        if own_threads().is_none_or(|threads| threads <= count) {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
