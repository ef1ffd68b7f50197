//! Sends runs in the background while they go on. Who tells of a run writes it down and never waits for this; what
//! is to be sent is read from there, so that little is in memory however long the server is away.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::delivery::{Delivery, Link, Opened};
use super::error::Fault;
use ctseg_base::limits::spawn::spawn;
use ctseg_base::progress::Observer;
use ctseg_http::BackOff;

/// What was told is sent so often, and so often where somebody waits for it.
const EVERY: Duration = Duration::from_secs(2);
const EVERY_AWAITED: Duration = Duration::from_millis(200);

/// How long the end of this waits for the runs to be let go of. A request that is under way may take longer.
const LETTING_GO: Duration = Duration::from_secs(1);

/// At the end of a run, how long its last events may take, and how long without anything moving.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    pub longest: Duration,
    pub idle: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            longest: Duration::from_secs(60),
            idle: Duration::from_secs(12),
        }
    }
}

impl Patience {
    /// Of who was told to go: schedulers kill after half a minute or less.
    pub const IN_A_HURRY: Self = Self {
        longest: Duration::from_secs(8),
        idle: Duration::from_secs(3),
    };
}

/// A thread that sends.
pub struct Sender {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Something is to be sent soon, or was sent.
    changed: Condvar,
    observer: Arc<dyn Observer>,
}

#[derive(Default)]
struct State {
    /// In the order in which they began, and whether they have ended.
    runs: Vec<(PathBuf, bool)>,
    /// Portions sent.
    sent: u64,
    /// Rounds over all runs.
    rounds: u64,
    /// Somebody waits for the end of it.
    is_awaited: bool,
    /// Why nothing can be sent now.
    trouble: Option<String>,
    /// The server has said when to come again.
    is_put_off: bool,
    /// Nothing will be sent any more.
    is_over: bool,
    /// The thread has let go of all runs, so that somebody else may send them.
    has_let_go: bool,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    All,
    Partly,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sender {
    pub fn begin(link: Arc<Link>, observer: Arc<dyn Observer>) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            observer,
        });
        let worker = Worker {
            link,
            shared: Arc::clone(&shared),
            deliveries: BTreeMap::new(),
            notes_said: BTreeMap::new(),
            back_off: BackOff::default(),
        };
        if let Err(error) = spawn("mlflow", move || worker.work()) {
            let why = format!("MLflow: {error}; 'ctseg sync' uploads the run later");
            shared.observer.warn(&why);
            shared.state().is_over = true;
        }
        Self { shared }
    }

    /// The run in this folder is to be sent from now on.
    pub fn add(&self, run: &Path) {
        let mut state = self.shared.state();
        match state.runs.iter_mut().find(|(known, _)| known == run) {
            Some((_, ended)) => *ended = false,
            None => state.runs.push((run.to_path_buf(), false)),
        }
    }

    /// Nothing more will be told of the run.
    pub fn ended(&self, run: &Path) {
        let mut state = self.shared.state();
        for (known, ended) in &mut state.runs {
            *ended |= known == run;
        }
    }

    /// Waits until all runs that have ended are sent, but not for long.
    pub fn settled(&self, patience: Patience) -> Settled {
        let begun = Instant::now();
        let mut state = self.shared.state();
        state.is_awaited = true;
        self.shared.changed.notify_all();
        let (rounds, mut sent, mut moved) = (state.rounds, state.sent, begun);
        let settled = loop {
            if !state.runs.iter().any(|(_, ended)| *ended) {
                break Settled::All;
            }
            let tried = state.trouble.is_some() && (state.is_put_off || state.rounds > rounds);
            let late = begun.elapsed() >= patience.longest || moved.elapsed() >= patience.idle;
            if state.is_over || tried || late {
                break Settled::Partly;
            }
            if state.sent != sent {
                (sent, moved) = (state.sent, Instant::now());
            }
            let waited = self
                .shared
                .changed
                .wait_timeout(state, Duration::from_millis(100));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        state.is_awaited = false;
        settled
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.is_over = true;
        self.shared.changed.notify_all();
        let let_go = self
            .shared
            .changed
            .wait_timeout_while(state, LETTING_GO, |state| !state.has_let_go);
        drop(let_go);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.deliveries.clear();
        self.shared.state().has_let_go = true;
        self.shared.changed.notify_all();
    }
}

struct Worker {
    link: Arc<Link>,
    shared: Arc<Shared>,
    deliveries: BTreeMap<PathBuf, Box<Delivery>>,
    /// How much of what was left out was said, by run.
    notes_said: BTreeMap<PathBuf, usize>,
    back_off: BackOff,
}

impl Worker {
    fn work(mut self) {
        let (mut wait, mut may_be_less) = (Duration::ZERO, true);
        while self.waited(wait, may_be_less) {
            let runs = self.shared.state().runs.clone();
            let outcome = runs
                .iter()
                .try_for_each(|(run, ended)| self.sent_all_of(run, *ended));
            (wait, may_be_less) = match outcome {
                Ok(()) => {
                    self.answers();
                    (EVERY, true)
                }
                Err(Fault::Away { why, wait: asked }) => {
                    self.silent(&why, asked.is_some());
                    (self.back_off.next(asked), asked.is_none())
                }
                Err(fault) => {
                    self.give_up(&fault.to_string());
                    return;
                }
            };
            self.shared.state().rounds += 1;
            self.shared.changed.notify_all();
        }
    }

    /// Waits before the next round, less where somebody waits for that; false where there is none.
    fn waited(&self, wait: Duration, may_be_less: bool) -> bool {
        let begun = Instant::now();
        let mut state = self.shared.state();
        loop {
            if state.is_over {
                return false;
            }
            let wait = match may_be_less && state.is_awaited {
                true => wait.min(EVERY_AWAITED),
                false => wait,
            };
            let left = wait.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return true;
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Sends what there is of one run. What is wrong with the run alone ends its sending and is no fault.
    fn sent_all_of(&mut self, run: &Path, ended: bool) -> Result<(), Fault> {
        let all = self.sent_of(run);
        self.say_notes(run);
        match all {
            Ok(false) => Ok(()),
            Ok(true) if !ended => Ok(()),
            Ok(true) => {
                self.forget(run);
                Ok(())
            }
            Err(fault @ (Fault::Away { .. } | Fault::Closed(_) | Fault::Experiment(_))) => {
                Err(fault)
            }
            Err(fault) => {
                let run_name = run.display();
                let line = format!("MLflow: {run_name} is sent no further: {fault}");
                self.shared.observer.warn(&line);
                self.forget(run);
                Ok(())
            }
        }
    }

    /// Whether everything that the run has told is sent.
    fn sent_of(&mut self, run: &Path) -> Result<bool, Fault> {
        if !self.deliveries.contains_key(run) {
            match Delivery::open(&self.link, run)? {
                Opened::Ready(delivery) => {
                    self.deliveries.insert(run.to_path_buf(), delivery);
                }
                // Somebody else sends it, and may end before us.
                Opened::Busy => return Ok(false),
                Opened::Empty => return Ok(true),
            }
        }
        let Some(delivery) = self.deliveries.get_mut(run) else {
            return Ok(true);
        };
        let was_known = delivery.is_known();
        while delivery.step()? {
            if !was_known && self.shared.state().sent == 0 {
                let line = format!("MLflow shows this run at {}", delivery.page());
                self.shared.observer.say(&line);
            }
            let mut state = self.shared.state();
            state.sent += 1;
            if state.is_over {
                return Ok(false);
            }
            drop(state);
            self.shared.changed.notify_all();
        }
        Ok(true)
    }

    fn say_notes(&mut self, run: &Path) {
        let Some(delivery) = self.deliveries.get(run) else {
            return;
        };
        let said = self.notes_said.entry(run.to_path_buf()).or_default();
        for note in delivery.sent.notes.iter().skip(*said) {
            self.shared.observer.warn(&format!("MLflow: {note}"));
        }
        *said = delivery.sent.notes.len();
    }

    fn forget(&mut self, run: &Path) {
        self.deliveries.remove(run);
        self.notes_said.remove(run);
        // Not where the run was begun again in the meantime.
        let mut state = self.shared.state();
        state.runs.retain(|(known, ended)| known != run || !ended);
    }

    fn answers(&mut self) {
        if self.back_off.tries() > 0 {
            self.back_off.reset();
            self.shared.state().trouble = None;
            let uri = &self.link.server.uri;
            let line = format!("MLflow: {uri} answers again, and has what waited");
            self.shared.observer.say(&line);
        }
    }

    fn silent(&self, why: &str, is_put_off: bool) {
        let mut state = self.shared.state();
        state.is_put_off = is_put_off;
        let first = state.trouble.replace(why.to_owned()).is_none();
        drop(state);
        if first {
            self.shared.observer.warn(&format!(
                "MLflow: {why}; the run goes on, and what it tells waits in its folder"
            ));
        }
    }

    fn give_up(&self, why: &str) {
        self.shared.observer.warn(&format!(
            "MLflow: {why}; nothing more is sent now, the run goes on and keeps in its folder what it tells"
        ));
        let mut state = self.shared.state();
        state.trouble = Some(why.to_owned());
        state.is_over = true;
        drop(state);
        self.shared.changed.notify_all();
    }
}
