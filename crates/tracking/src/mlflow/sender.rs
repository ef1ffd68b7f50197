//! Uploads runs in a background thread. Training only appends to the event file and never waits for the server; the
//! thread reads the file, so memory stays small however long the server is unavailable.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::delivery::{Delivery, Link, Opened};
use super::error::Fault;
use ctseg_base::limits::spawn::spawn;
use ctseg_base::progress::Observer;
use ctseg_http::BackOff;

/// Time between uploads, and during a flush.
const INTERVAL: Duration = Duration::from_secs(2);
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);

/// How long dropping the sender waits for the thread to release the runs. A pending request may take longer.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// Limits of the final upload: in total, and without progress.
#[derive(Debug, Clone, Copy)]
pub struct FlushTimeout {
    pub total: Duration,
    pub idle: Duration,
}

impl Default for FlushTimeout {
    fn default() -> Self {
        Self {
            total: Duration::from_secs(60),
            idle: Duration::from_secs(12),
        }
    }
}

impl FlushTimeout {
    /// After a signal: schedulers kill after 30 seconds or less.
    pub const INTERRUPTED: Self = Self {
        total: Duration::from_secs(8),
        idle: Duration::from_secs(3),
    };
}

/// The upload thread.
pub struct Sender {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// The state has changed.
    changed: Condvar,
    observer: Arc<dyn Observer>,
}

#[derive(Default)]
struct State {
    /// In the order in which they started, with whether they have ended.
    runs: Vec<(PathBuf, bool)>,
    /// Portions uploaded.
    sent: u64,
    /// Rounds over all runs.
    rounds: u64,
    /// A thread waits in [`Sender::flush`].
    is_flushing: bool,
    /// Why uploads fail now.
    problem: Option<String>,
    /// The server has sent `Retry-After`.
    has_retry_after: bool,
    /// Nothing more will be uploaded.
    is_stopped: bool,
    /// The thread has released all runs, so that another process may upload them.
    has_released: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flushed {
    All,
    Partly,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sender {
    pub fn start(link: Arc<Link>, observer: Arc<dyn Observer>) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            observer,
        });
        let worker = Worker {
            link,
            shared: Arc::clone(&shared),
            deliveries: BTreeMap::new(),
            notes_shown: BTreeMap::new(),
            back_off: BackOff::default(),
        };
        if let Err(error) = spawn("mlflow", move || worker.work()) {
            let why = format!("MLflow: {error}; 'ctseg sync' uploads the run later");
            shared.observer.warn(&why);
            shared.state().is_stopped = true;
        }
        Self { shared }
    }

    /// Uploads the run in this folder from now on.
    pub fn add(&self, run: &Path) {
        let mut state = self.shared.state();
        match state.runs.iter_mut().find(|(known, _)| known == run) {
            Some((_, ended)) => *ended = false,
            None => state.runs.push((run.to_path_buf(), false)),
        }
    }

    /// The run has ended; no more events follow.
    pub fn ended(&self, run: &Path) {
        let mut state = self.shared.state();
        for (known, ended) in &mut state.runs {
            *ended |= known == run;
        }
    }

    /// Waits until all ended runs are uploaded, up to `timeout`.
    pub fn flush(&self, timeout: FlushTimeout) -> Flushed {
        let started = Instant::now();
        let mut state = self.shared.state();
        state.is_flushing = true;
        self.shared.changed.notify_all();
        let (rounds, mut sent, mut last_progress) = (state.rounds, state.sent, started);
        let outcome = loop {
            if !state.runs.iter().any(|(_, ended)| *ended) {
                break Flushed::All;
            }
            let tried = state.problem.is_some() && (state.has_retry_after || state.rounds > rounds);
            let late =
                started.elapsed() >= timeout.total || last_progress.elapsed() >= timeout.idle;
            if state.is_stopped || tried || late {
                break Flushed::Partly;
            }
            if state.sent != sent {
                (sent, last_progress) = (state.sent, Instant::now());
            }
            let waited = self
                .shared
                .changed
                .wait_timeout(state, Duration::from_millis(100));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        state.is_flushing = false;
        outcome
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.is_stopped = true;
        self.shared.changed.notify_all();
        let released = self
            .shared
            .changed
            .wait_timeout_while(state, RELEASE_TIMEOUT, |state| !state.has_released);
        drop(released);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.deliveries.clear();
        self.shared.state().has_released = true;
        self.shared.changed.notify_all();
    }
}

struct Worker {
    link: Arc<Link>,
    shared: Arc<Shared>,
    deliveries: BTreeMap<PathBuf, Box<Delivery>>,
    /// Number of notes shown, by run.
    notes_shown: BTreeMap<PathBuf, usize>,
    back_off: BackOff,
}

impl Worker {
    fn work(mut self) {
        let (mut wait, mut may_shorten) = (Duration::ZERO, true);
        while self.wait_for_round(wait, may_shorten) {
            let runs = self.shared.state().runs.clone();
            let outcome = runs
                .iter()
                .try_for_each(|(run, ended)| self.send_run(run, *ended));
            (wait, may_shorten) = match outcome {
                Ok(()) => {
                    self.report_recovery();
                    (INTERVAL, true)
                }
                Err(Fault::Unavailable {
                    why, wait: asked, ..
                }) => {
                    self.report_outage(&why, asked.is_some());
                    (self.back_off.next(asked), asked.is_none())
                }
                Err(fault) => {
                    self.stop(&fault.to_string());
                    return;
                }
            };
            self.shared.state().rounds += 1;
            self.shared.changed.notify_all();
        }
    }

    /// Waits before the next round, less during a flush if `may_shorten`. Returns false if the sender is stopped.
    fn wait_for_round(&self, wait: Duration, may_shorten: bool) -> bool {
        let started = Instant::now();
        let mut state = self.shared.state();
        loop {
            if state.is_stopped {
                return false;
            }
            let wait = match may_shorten && state.is_flushing {
                true => wait.min(FLUSH_INTERVAL),
                false => wait,
            };
            let left = wait.saturating_sub(started.elapsed());
            if left.is_zero() {
                return true;
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Uploads the pending events of one run. An error of this run alone ends its upload and is not returned.
    fn send_run(&mut self, run: &Path, ended: bool) -> Result<(), Fault> {
        let all = self.send_events(run);
        self.show_notes(run);
        match all {
            Ok(false) => Ok(()),
            Ok(true) if !ended => Ok(()),
            Ok(true) => {
                self.remove_run(run);
                Ok(())
            }
            Err(
                fault @ (Fault::Unavailable { .. }
                | Fault::Fatal { .. }
                | Fault::ExperimentDeleted(_)),
            ) => Err(fault),
            Err(fault) => {
                let run_name = run.display();
                let line = format!("MLflow: {run_name}: upload stopped: {fault}");
                self.shared.observer.warn(&line);
                self.remove_run(run);
                Ok(())
            }
        }
    }

    /// Uploads pending events. Returns whether all are uploaded.
    fn send_events(&mut self, run: &Path) -> Result<bool, Fault> {
        if !self.deliveries.contains_key(run) {
            match Delivery::open(&self.link, run)? {
                Opened::Ready(delivery) => {
                    self.deliveries.insert(run.to_path_buf(), delivery);
                }
                // Another process uploads it, and may end before this one.
                Opened::Busy => return Ok(false),
                Opened::Empty => return Ok(true),
            }
        }
        let Some(delivery) = self.deliveries.get_mut(run) else {
            return Ok(true);
        };
        let was_created = delivery.is_created();
        while delivery.send_next()? {
            if !was_created && self.shared.state().sent == 0 {
                let line = format!("MLflow run: {}", delivery.url());
                self.shared.observer.info(&line);
            }
            let mut state = self.shared.state();
            state.sent += 1;
            if state.is_stopped {
                return Ok(false);
            }
            drop(state);
            self.shared.changed.notify_all();
        }
        Ok(true)
    }

    fn show_notes(&mut self, run: &Path) {
        let Some(delivery) = self.deliveries.get(run) else {
            return;
        };
        let shown = self.notes_shown.entry(run.to_path_buf()).or_default();
        for note in delivery.sent.notes.iter().skip(*shown) {
            self.shared.observer.warn(&format!("MLflow: {note}"));
        }
        *shown = delivery.sent.notes.len();
    }

    fn remove_run(&mut self, run: &Path) {
        self.deliveries.remove(run);
        self.notes_shown.remove(run);
        // Unless the run was started again in the meantime.
        let mut state = self.shared.state();
        state.runs.retain(|(known, ended)| known != run || !ended);
    }

    fn report_recovery(&mut self) {
        if self.back_off.tries() > 0 {
            self.back_off.reset();
            self.shared.state().problem = None;
            let uri = &self.link.server.uri;
            let line = format!("MLflow: {uri} responds again; uploading pending events");
            self.shared.observer.info(&line);
        }
    }

    fn report_outage(&self, why: &str, has_retry_after: bool) {
        let mut state = self.shared.state();
        state.has_retry_after = has_retry_after;
        let first = state.problem.replace(why.to_owned()).is_none();
        drop(state);
        if first {
            self.shared.observer.warn(&format!(
                "MLflow: {why}; the run continues and keeps its events in the run folder"
            ));
        }
    }

    fn stop(&self, why: &str) {
        self.shared.observer.warn(&format!(
            "MLflow: {why}; upload stopped; the run continues and keeps its events in the run folder"
        ));
        let mut state = self.shared.state();
        state.problem = Some(why.to_owned());
        state.is_stopped = true;
        drop(state);
        self.shared.changed.notify_all();
    }
}
