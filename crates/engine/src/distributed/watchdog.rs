//! Ends a process when another of its team is gone: it would wait for it for ever.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::getuid;

use super::process_group::collective::Collective;
use ctseg_base::Result;
use ctseg_base::limits::spawn::spawn;
use ctseg_base::process::id::ProcessId;

/// How often the others are looked at.
const EVERY: Duration = Duration::from_secs(2);

/// How long a process that has ended may be ahead of this one at a common end.
const AHEAD: Duration = Duration::from_secs(3);

/// The exit code of what can be gone on with.
const RESUMABLE: i32 = 75;

/// Looks at the others until told to stop.
pub(super) struct Watch {
    over: Arc<AtomicBool>,
    advice: Arc<Mutex<String>>,
}

type Tell = Box<dyn Fn(&str) + Send>;

impl Watch {
    /// Of process `own` of `processes`. Those of other machines cannot be seen: of them the collective knows, or what
    /// began them.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn begin(
        own: usize,
        processes: Vec<Option<ProcessId>>,
        collective: Arc<dyn Collective>,
        tell: Tell,
    ) -> Result<Self> {
        let watch = Self {
            over: Arc::default(),
            advice: Arc::default(),
        };
        let (over, advice) = (Arc::clone(&watch.over), Arc::clone(&watch.advice));
        let watches = move || {
            while !over.load(Ordering::Relaxed) {
                std::thread::sleep(EVERY);
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let Some(what) = lost(own, &processes).or_else(|| collective.fault()) else {
                    continue;
                };
                std::thread::sleep(AHEAD);
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let advice = advice.lock().unwrap_or_else(PoisonError::into_inner);
                tell(&format!(
                    "{what}, and process {own} cannot go on without it{advice}"
                ));
                // Not by way of what runs at exit: the main thread is in the midst of a call that never returns.
                // SAFETY: ends the process; files are written under other names until they are whole.
                unsafe { libc::_exit(RESUMABLE) };
            }
        };
        spawn("watchdog", watches)?;
        Ok(watch)
    }

    pub fn advise(&self, advice: &str) {
        let mut known = self.advice.lock().unwrap_or_else(PoisonError::into_inner);
        *known = format!("; {advice}");
    }

    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// The first of the others that runs no more.
fn lost(own: usize, processes: &[Option<ProcessId>]) -> Option<String> {
    let user = getuid().as_raw();
    let gone = |process: &ProcessId| process.is_alive(user) == Some(false);
    let mut others = processes.iter().enumerate();
    let (rank, _) =
        others.find(|(rank, process)| *rank != own && process.as_ref().is_some_and(gone))?;
    Some(format!(
        "process {rank} of {} that train together has ended",
        processes.len()
    ))
}
