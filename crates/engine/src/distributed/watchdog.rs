//! Stops this process when another one of its group has ended; otherwise it would wait forever.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::getuid;

use super::process_group::collective::Collective;
use ctseg_base::Result;
use ctseg_base::limits::spawn::spawn;
use ctseg_base::process::id::ProcessId;

/// How often the other processes are checked.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// How much earlier than this process another one may finish regularly.
const GRACE_PERIOD: Duration = Duration::from_secs(3);

/// The exit code of a resumable run.
const RESUMABLE: i32 = 75;

/// Monitors the other processes until stopped.
pub(super) struct Watchdog {
    stopped: Arc<AtomicBool>,
    hint: Arc<Mutex<String>>,
}

type Report = Box<dyn Fn(&str) + Send>;

impl Watchdog {
    /// Starts the watchdog of process `own` of `processes`. Processes on other machines are monitored by the
    /// collective or the launcher.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        own: usize,
        processes: Vec<Option<ProcessId>>,
        collective: Arc<dyn Collective>,
        report: Report,
    ) -> Result<Self> {
        let watchdog = Self {
            stopped: Arc::default(),
            hint: Arc::default(),
        };
        let (stopped, hint) = (Arc::clone(&watchdog.stopped), Arc::clone(&watchdog.hint));
        let run = move || {
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(POLL_INTERVAL);
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let Some(what) = first_dead_peer(own, &processes).or_else(|| collective.fault())
                else {
                    continue;
                };
                std::thread::sleep(GRACE_PERIOD);
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let hint = hint.lock().unwrap_or_else(PoisonError::into_inner);
                report(&format!("{what}; rank {own} cannot continue{hint}"));
                // Skips exit handlers: the main thread is inside a call that never returns.
                // SAFETY: ends the process; files are written atomically.
                unsafe { libc::_exit(RESUMABLE) };
            }
        };
        spawn("watchdog", run)?;
        Ok(watchdog)
    }

    pub fn set_recovery_hint(&self, hint: &str) {
        let mut known = self.hint.lock().unwrap_or_else(PoisonError::into_inner);
        *known = format!("; {hint}");
    }

    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

/// The first other process that has ended.
fn first_dead_peer(own: usize, processes: &[Option<ProcessId>]) -> Option<String> {
    let user = getuid().as_raw();
    let gone = |process: &ProcessId| process.is_alive(user) == Some(false);
    let mut peers = processes.iter().enumerate();
    let (rank, _) =
        peers.find(|(rank, process)| *rank != own && process.as_ref().is_some_and(gone))?;
    Some(format!("rank {rank} of {} has ended", processes.len()))
}
