//! What signals ask of a command: to stop where nothing is lost, and to leave at once.
//!
//! SIGUSR1 is what Slurm's `--signal` usually sends before a job's time is up. However often it comes, it asks to stop
//! and never to leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::iterator::Signals;
use signal_hook::{flag, low_level};

use crate::cli::outcome::Outcome;
use ctseg_base::limits::spawn::spawn;

/// Lets a write beyond the limit on file sizes (`ulimit -f`) fail as other writes do; its signal would end the process.
pub(super) fn report_size_limit() {
    // A handler, although it has nothing to do: programs that are started would inherit an ignored signal.
    let _ = flag::register(SIGXFSZ, Arc::default());
}

/// A flag that SIGINT, SIGTERM and SIGUSR1 set; a second SIGINT ends the process at once.
pub fn stop_on_signals() -> std::io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    flag::register_conditional_shutdown(SIGINT, 130, Arc::clone(&stop))?;
    for signal in [SIGINT, SIGTERM, SIGUSR1] {
        flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// What signals ask for.
pub struct Asked {
    /// To stop after the work under way: the first signal.
    pub stop: Arc<AtomicBool>,
    /// To leave at once: a second SIGINT or SIGTERM.
    pub leave: Arc<AtomicBool>,
}

/// Listens to signals; a third one ends the process as it stands, and so does the second one where leaving takes too
/// long. Where no thread can be started to listen, the second SIGINT or SIGTERM ends the process as it stands.
pub fn stop_then_leave_on_signals() -> std::io::Result<Asked> {
    let asked = Asked {
        stop: Arc::default(),
        leave: Arc::default(),
    };
    let (stop, leave) = (Arc::clone(&asked.stop), Arc::clone(&asked.leave));
    let signals = Signals::new([SIGINT, SIGTERM, SIGUSR1])?;
    if spawn("signals", move || listen(signals, &stop, &leave)).is_err() {
        for signal in [SIGINT, SIGTERM] {
            let resumable = Outcome::Interrupted.exit_code().into();
            flag::register_conditional_shutdown(signal, resumable, Arc::clone(&asked.stop))?;
        }
        for signal in [SIGINT, SIGTERM, SIGUSR1] {
            flag::register(signal, Arc::clone(&asked.stop))?;
        }
    }
    Ok(asked)
}

fn listen(mut signals: Signals, stop: &AtomicBool, leave: &AtomicBool) {
    let (mut requests, mut left) = (Requests::default(), None);
    loop {
        // Waits for a signal, but not for ever once the process is to leave.
        let arrived: Vec<i32> = match left {
            None => signals.wait().collect(),
            Some(_) => signals.pending().collect(),
        };
        for signal in arrived {
            match requests.after(signal, Instant::now()) {
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
            if left.elapsed() > LEAVING_TAKES {
                low_level::exit(Outcome::Interrupted.exit_code().into());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Whoever was asked to leave has gone by then; files are written under other names until they are whole.
const LEAVING_TAKES: Duration = Duration::from_secs(10);

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Requests that signals were taken for.
#[derive(Default)]
struct Requests {
    count: usize,
    last: Option<Instant>,
}

impl Requests {
    /// How many there are with this signal: 1 to stop, 2 to leave, 3 to end at once.
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

/// Schedulers may send the same request along several ways: to the process, to its group, to its step. On a busy
/// machine these arrive some hundred milliseconds apart.
fn same_request(signal: i32) -> Duration {
    match signal {
        // Of a person, who may press Ctrl-C twice.
        SIGINT => Duration::from_millis(200),
        _ => Duration::from_secs(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is asked for after each signal, sent so many milliseconds after the first.
    fn asked(signals: &[(i32, u64)]) -> Vec<usize> {
        let (begun, mut requests) = (Instant::now(), Requests::default());
        let each = signals.iter();
        each.map(|(signal, ms)| requests.after(*signal, begun + Duration::from_millis(*ms)))
            .collect()
    }

    #[test]
    fn usr1_never_asks_to_leave_and_echoes_count_once() {
        assert_eq!(
            asked(&[(SIGUSR1, 0), (SIGUSR1, 5), (SIGUSR1, 9000)]),
            [1; 3]
        );
        // Of a job that is taken away: to every process, and from its script.
        assert_eq!(asked(&[(SIGTERM, 0), (SIGUSR1, 300)]), [1; 2]);
        assert_eq!(asked(&[(SIGUSR1, 0), (SIGTERM, 300)]), [1; 2]);
        // Before the time is up, and when it is.
        assert_eq!(asked(&[(SIGUSR1, 0), (SIGTERM, 300_000)]), [1, 2]);
        assert_eq!(
            asked(&[(SIGTERM, 0), (SIGTERM, 999), (SIGTERM, 1001)]),
            [1, 1, 2]
        );
        let person = [(SIGINT, 0), (SIGINT, 300), (SIGUSR1, 5000), (SIGINT, 9000)];
        assert_eq!(asked(&person), [1, 2, 2, 3]);
    }
}
