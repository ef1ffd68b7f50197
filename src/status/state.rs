//! What is known of the work in one folder: its kind, its state, how far it is, when it is expected to end.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use ctseg_base::Error;
use ctseg_base::process::owner::{Alive, Sign, Worker};
use ctseg_core::run::state_file::{Ended, RunState, TaskState, time_text};

/// A process that cannot be asked is taken for dead so long after its last sign; it gives several a minute.
pub(super) const EXPIRY: Duration = Duration::from_secs(300);

/// How far a training has come.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Epochs {
    /// The network under way, or the last one: `fold 0`.
    pub network: String,
    /// Its epochs that are done.
    pub done: usize,
    /// At most.
    pub of: usize,
    /// Networks that are trained.
    pub networks_done: usize,
    pub networks: usize,
    /// Training loss of the last epoch.
    pub loss: Option<f64>,
}

/// How far the trials of a sweep are.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trials {
    pub all: usize,
    /// Those that were trained, if only for a rung.
    pub begun: usize,
    pub failed: usize,
    /// Settings of the best one so far.
    pub best: Option<String>,
}

/// How many cases are in which state.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Cases {
    pub done: usize,
    /// Cases whose label map already exists.
    pub kept: usize,
    pub failed: usize,
    /// A process of those that share the cases is at work on them.
    pub claimed: usize,
    /// Still to be done, and nobody's.
    pub left: usize,
    /// Those that are claimed.
    pub claims: Vec<Claim>,
    /// Inputs that failed, and why.
    pub failures: Vec<(PathBuf, String)>,
    /// The shards of how many, where there are any, that have not begun.
    pub shards_missing: Vec<String>,
}

/// A case that a process is at work on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Claim {
    #[serde(serialize_with = "as_shown")]
    pub output: PathBuf,
    /// The process, as the folder of claims names it.
    pub process: String,
    /// Those of early versions do not say.
    pub worker: Option<Worker>,
    /// When the case was taken.
    pub since: Option<String>,
}

/// What a folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Fit,
    Sweep,
    Predict,
    Evaluate,
}

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    Running,
    Done,
    /// It was stopped, or its process is gone; it can go on.
    Interrupted,
    /// It ended with an error, or with cases that failed.
    Failed,
    /// Its files do not tell.
    Unknown,
}

/// How the work in one folder stands.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    #[serde(serialize_with = "as_shown")]
    pub path: PathBuf,
    pub kind: Kind,
    pub state: Standing,
    /// Why it stands so, one line, where that is worth one.
    pub because: Option<String>,
    /// How it goes on, where it does.
    pub resume: Option<String>,
    /// The process that works on it, or did so last.
    pub worker: Option<Worker>,
    /// RFC 3339 in UTC.
    pub begun: Option<String>,
    /// The last time that a file of it was written, by the clock of the file system.
    #[serde(serialize_with = "as_text")]
    pub last_sign: Option<SystemTime>,
    pub task: Option<TaskState>,
    /// What was said last.
    pub last_line: Option<String>,
    /// Of a training.
    pub epochs: Option<Epochs>,
    /// Of a sweep.
    pub trials: Option<Trials>,
    /// Of predictions and evaluations.
    pub cases: Option<Cases>,
    /// The best validation Dice of a training or trial so far; of an evaluation the mean Dice.
    pub dice: Option<f64>,
    /// If it goes on as it did; a training that gains nothing more ends earlier.
    #[serde(serialize_with = "as_text")]
    pub expected_end: Option<SystemTime>,
}

/// Paths that are not UTF-8, too, which serde refuses.
fn as_shown<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&path.display())
}

fn as_text<S: Serializer>(time: &Option<SystemTime>, to: S) -> Result<S::Ok, S::Error> {
    time.and_then(text_of).serialize(to)
}

pub(super) fn text_of(time: SystemTime) -> Option<String> {
    jiff::Timestamp::try_from(time).ok().map(time_text)
}

impl Status {
    pub(super) fn new(path: &Path, kind: Kind) -> Self {
        Self {
            path: path.to_path_buf(),
            kind,
            state: Standing::Unknown,
            because: None,
            resume: None,
            worker: None,
            begun: None,
            last_sign: None,
            task: None,
            last_line: None,
            epochs: None,
            trials: None,
            cases: None,
            dice: None,
            expected_end: None,
        }
    }

    /// Of a folder whose files cannot be read.
    pub(super) fn unreadable(path: &Path, kind: Kind, error: &Error) -> Self {
        Self {
            because: Some(error.to_string()),
            ..Self::new(path, kind)
        }
    }

    /// Takes over what a state says; `owner` is whose file it is.
    pub(super) fn take_state(&mut self, state: RunState, owner: u32, now: SystemTime) {
        let at = self.last_sign.unwrap_or(now);
        let sign = Sign { at, now };
        (self.state, self.because) = match &state.ended {
            Some(ending) => match ending.outcome {
                Ended::Finished => (Standing::Done, None),
                Ended::Interrupted => (Standing::Interrupted, None),
                Ended::Failed => (Standing::Failed, ending.reason.clone()),
            },
            None => standing(&state.worker, state.worker.alive(owner, sign, EXPIRY)),
        };
        self.worker = Some(state.worker);
        self.begun = Some(state.begun);
        self.task = state.task;
        self.last_line = state.last_line;
        if self.state != Standing::Running {
            self.task = None;
        } else if let Some(until) = state.until {
            let until = until.parse::<jiff::Timestamp>().ok();
            self.expected_end = until.map(SystemTime::from);
        }
    }

    /// The end is expected after so many seconds more, unless it is to be earlier.
    pub(super) fn expect_within(&mut self, seconds: f64, now: SystemTime) {
        let after = Duration::try_from_secs_f64(seconds.max(0.0)).ok();
        let end = after.and_then(|after| now.checked_add(after));
        self.expected_end = match (self.expected_end, end) {
            (Some(limit), Some(end)) => Some(limit.min(end)),
            (limit, end) => limit.or(end),
        };
    }
}

/// How work stands whose end nobody has written down.
pub(super) fn standing(worker: &Worker, alive: Alive) -> (Standing, Option<String>) {
    match alive {
        Alive::Yes => (Standing::Running, None),
        Alive::No => (
            Standing::Interrupted,
            Some(format!("{} is gone without an end", worker.described())),
        ),
        Alive::Silent(silent) => (
            Standing::Interrupted,
            Some(format!(
                "{} was not heard of for {}",
                worker.described(),
                span(silent)
            )),
        ),
        Alive::Ahead(ahead) => (
            Standing::Interrupted,
            Some(format!(
                "the last sign of {} lies {} in the future and tells nothing; set the clocks right",
                worker.described(),
                span(ahead)
            )),
        ),
    }
}

/// The newest time of `files` that are there.
pub(super) fn last_written<'a>(files: impl IntoIterator<Item = &'a Path>) -> Option<SystemTime> {
    let times = files
        .into_iter()
        .filter_map(|file| std::fs::metadata(file).ok()?.modified().ok());
    times.max()
}

/// How long ago that was; nothing where it was not, or lies in the future.
pub(super) fn age(time: Option<SystemTime>, now: SystemTime) -> Duration {
    let age = time.and_then(|time| now.duration_since(time).ok());
    age.unwrap_or_default()
}

/// `45 s`, `12 min`, `3 h 20 min`, `2 d 5 h`.
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_said_in_two_units_at_most() {
        let said = |seconds: u64| span(Duration::from_secs(seconds));
        assert_eq!(said(0), "0 s");
        assert_eq!(said(119), "1 min");
        assert_eq!(said(3600 * 3 + 60 * 20), "3 h 20 min");
        assert_eq!(said(86_400 * 2 + 3600 * 5 + 59), "2 d 5 h");
    }

    #[test]
    fn the_earlier_of_limit_and_estimate_is_expected() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let mut status = Status::new(Path::new("run"), Kind::Fit);
        status.expect_within(60.0, now);
        assert_eq!(status.expected_end, Some(now + Duration::from_secs(60)));
        status.expect_within(90.0, now);
        assert_eq!(status.expected_end, Some(now + Duration::from_secs(60)));
        status.expect_within(f64::INFINITY, now);
        assert_eq!(status.expected_end, Some(now + Duration::from_secs(60)));
    }
}
