//! Signal handling: stop at the next safe point, or exit at once.
//!
//! SIGUSR1 is what Slurm's `--signal` usually sends before a job's time limit. It only ever requests a stop, however
//! often it is sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::iterator::Signals;
use signal_hook::{flag, low_level};

use crate::cli::outcome::Outcome;
use ctseg_base::limits::spawn::spawn;

/// Turns SIGXFSZ (a write beyond `ulimit -f`) into an ordinary write error instead of ending the process.
pub(super) fn report_size_limit() {
    // An empty handler, because child processes would inherit an ignored signal.
    let _ = flag::register(SIGXFSZ, Arc::default());
}

/// A flag set by SIGINT, SIGTERM and SIGUSR1. A second SIGINT ends the process at once.
pub fn stop_on_signals() -> std::io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    flag::register_conditional_shutdown(SIGINT, 130, Arc::clone(&stop))?;
    for signal in [SIGINT, SIGTERM, SIGUSR1] {
        flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// Requests made by signals.
pub struct StopRequests {
    /// Stop after the current work: the first signal.
    pub stop: Arc<AtomicBool>,
    /// Exit at once: a second SIGINT or SIGTERM.
    pub leave: Arc<AtomicBool>,
}

/// Listens for signals. A third one ends the process immediately, as does the second one if leaving takes too long. If
/// no listener thread can be started, the second SIGINT or SIGTERM ends the process immediately.
pub fn stop_then_leave_on_signals() -> std::io::Result<StopRequests> {
    let requests = StopRequests {
        stop: Arc::default(),
        leave: Arc::default(),
    };
    let (stop, leave) = (Arc::clone(&requests.stop), Arc::clone(&requests.leave));
    let signals = Signals::new([SIGINT, SIGTERM, SIGUSR1])?;
    if spawn("signals", move || listen(signals, &stop, &leave)).is_err() {
        for signal in [SIGINT, SIGTERM] {
            let resumable = Outcome::Interrupted.exit_code().into();
            flag::register_conditional_shutdown(signal, resumable, Arc::clone(&requests.stop))?;
        }
        for signal in [SIGINT, SIGTERM, SIGUSR1] {
            flag::register(signal, Arc::clone(&requests.stop))?;
        }
    }
    Ok(requests)
}

fn listen(mut signals: Signals, stop: &AtomicBool, leave: &AtomicBool) {
    let (mut count, mut left) = (RequestCount::default(), None);
    loop {
        // Blocks for a signal, unless the process is about to exit.
        let arrived: Vec<i32> = match left {
            None => signals.wait().collect(),
            Some(_) => signals.pending().collect(),
        };
        for signal in arrived {
            match count.after(signal, Instant::now()) {
                0 => {}
                1 => stop.store(true, Ordering::Relaxed),
                2 => {
                    leave.store(true, Ordering::Relaxed);
                    left.get_or_insert_with(Instant::now);
                }
                _ => low_level::exit(130),
            }
        }
        if let Some(left) = left {
            if left.elapsed() > LEAVE_TIMEOUT {
                low_level::exit(Outcome::Interrupted.exit_code().into());
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

/// After this time the process ends anyway; files have temporary names until they are complete, so none is damaged.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);

const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Counts signals as requests.
#[derive(Default)]
struct RequestCount {
    count: usize,
    last: Option<Instant>,
}

impl RequestCount {
    /// The count after this signal: 1 stop, 2 leave, 3 end immediately.
    fn after(&mut self, signal: i32, at: Instant) -> usize {
        let is_same = self
            .last
            .is_some_and(|last| at.duration_since(last) < same_request(signal));
        if !is_same {
            self.last = Some(at);
            match signal {
                SIGUSR1 => self.count = self.count.max(1),
                _ => self.count += 1,
            }
        }
        self.count
    }
}

/// Schedulers may send the same request several times: to the process, its group and its step. On a busy machine these
/// arrive some hundred milliseconds apart.
fn same_request(signal: i32) -> Duration {
    match signal {
        // A user may press Ctrl-C twice.
        SIGINT => Duration::from_millis(200),
        _ => Duration::from_secs(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The count after each signal, sent at the given milliseconds.
    fn counts(signals: &[(i32, u64)]) -> Vec<usize> {
        let (started, mut count) = (Instant::now(), RequestCount::default());
        let each = signals.iter();
        each.map(|(signal, ms)| count.after(*signal, started + Duration::from_millis(*ms)))
            .collect()
    }

    #[test]
    fn usr1_never_requests_to_leave_and_repeats_count_once() {
        assert_eq!(
            counts(&[(SIGUSR1, 0), (SIGUSR1, 5), (SIGUSR1, 9000)]),
            [1; 3]
        );
        // A preempted job: sent to every process, and by its script.
        assert_eq!(counts(&[(SIGTERM, 0), (SIGUSR1, 300)]), [1; 2]);
        assert_eq!(counts(&[(SIGUSR1, 0), (SIGTERM, 300)]), [1; 2]);
        // Before the time limit, and at it.
        assert_eq!(counts(&[(SIGUSR1, 0), (SIGTERM, 300_000)]), [1, 2]);
        assert_eq!(
            counts(&[(SIGTERM, 0), (SIGTERM, 999), (SIGTERM, 1001)]),
            [1, 1, 2]
        );
        let person = [(SIGINT, 0), (SIGINT, 300), (SIGUSR1, 5000), (SIGINT, 9000)];
        assert_eq!(counts(&person), [1, 2, 2, 3]);
    }
}
