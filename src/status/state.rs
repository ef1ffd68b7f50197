//! Status of one folder: kind, state, progress and expected end.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use ctseg_base::Error;
use ctseg_base::process::owner::{LastHeartbeat, Liveness, Worker};
use ctseg_core::run::state_file::{Ended, RunState, TaskState, time_text};

/// A process on another machine counts as dead this long after its last update; it writes several a minute.
pub(super) const EXPIRY: Duration = Duration::from_secs(300);

/// Progress of a training.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Epochs {
    /// The current network, or the last one: `fold 0`.
    pub network: String,
    /// Finished epochs of this network.
    pub done: usize,
    /// Maximum number of epochs.
    pub of: usize,
    /// Finished networks.
    pub networks_done: usize,
    pub networks: usize,
    /// Training loss of the last epoch.
    pub loss: Option<f64>,
}

/// Progress of a sweep.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trials {
    pub all: usize,
    /// Trials trained for at least one rung.
    #[serde(rename = "begun")]
    pub started: usize,
    pub failed: usize,
    /// Settings of the best one so far.
    pub best: Option<String>,
}

/// Number of cases by state.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Cases {
    pub done: usize,
    /// Cases whose label map already exists.
    pub kept: usize,
    pub failed: usize,
    /// Claimed by a process.
    pub claimed: usize,
    /// Pending and not claimed.
    pub left: usize,
    pub claims: Vec<Claim>,
    /// Failed inputs, with the reason.
    pub failures: Vec<(PathBuf, String)>,
    /// Shards that have not started, as `3/8`.
    pub shards_missing: Vec<String>,
}

/// A case claimed by a process.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Claim {
    #[serde(serialize_with = "as_shown")]
    pub output: PathBuf,
    /// Name of the process in the folder of claims.
    pub process: String,
    /// Not recorded by early versions.
    pub worker: Option<Worker>,
    /// Time of the claim.
    pub since: Option<String>,
}

/// Kind of work in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Fit,
    Sweep,
    Predict,
    Evaluate,
}

/// State of the work in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Running,
    Done,
    /// Stopped, or its process is gone; can be resumed.
    Interrupted,
    /// Ended with an error or failed cases.
    Failed,
    /// Not determined by its files.
    Unknown,
}

/// Status of the work in one folder.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    #[serde(serialize_with = "as_shown")]
    pub path: PathBuf,
    pub kind: Kind,
    pub state: State,
    /// Reason for the state, one line.
    pub because: Option<String>,
    /// Command to resume it, if it can be resumed.
    pub resume: Option<String>,
    /// The current or last process.
    pub worker: Option<Worker>,
    /// RFC 3339 in UTC.
    #[serde(rename = "begun")]
    pub started: Option<String>,
    /// The last time that a file of it was written, by the clock of the file system.
    #[serde(serialize_with = "as_text")]
    pub last_sign: Option<SystemTime>,
    pub task: Option<TaskState>,
    pub last_line: Option<String>,
    /// For trainings.
    pub epochs: Option<Epochs>,
    /// For sweeps.
    pub trials: Option<Trials>,
    /// For predictions and evaluations.
    pub cases: Option<Cases>,
    /// Best validation Dice so far of a training or sweep; mean Dice of an evaluation.
    pub dice: Option<f64>,
    /// At the present speed; early stopping may end a training before.
    #[serde(serialize_with = "as_text")]
    pub expected_end: Option<SystemTime>,
}

/// Serialises paths that are not UTF-8, which serde refuses.
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
            state: State::Unknown,
            because: None,
            resume: None,
            worker: None,
            started: None,
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

    /// Status of a folder whose files cannot be read.
    pub(super) fn unreadable(path: &Path, kind: Kind, error: &Error) -> Self {
        Self {
            because: Some(error.to_string()),
            ..Self::new(path, kind)
        }
    }

    /// Copies a state file, owned by user `owner`.
    pub(super) fn take_state(&mut self, state: RunState, owner: u32, now: SystemTime) {
        let at = self.last_sign.unwrap_or(now);
        let sign = LastHeartbeat { at, now };
        (self.state, self.because) = match &state.ended {
            Some(ending) => match ending.outcome {
                Ended::Finished => (State::Done, None),
                Ended::Interrupted => (State::Interrupted, None),
                Ended::Failed => (State::Failed, ending.reason.clone()),
            },
            None => unfinished(&state.worker, state.worker.liveness(owner, sign, EXPIRY)),
        };
        self.worker = Some(state.worker);
        self.started = Some(state.started);
        self.task = state.task;
        self.last_line = state.last_line;
        if self.state != State::Running {
            self.task = None;
        } else if let Some(until) = state.until {
            let until = until.parse::<jiff::Timestamp>().ok();
            self.expected_end = until.map(SystemTime::from);
        }
    }

    /// Expects the end within `seconds`, unless an earlier one is known.
    pub(super) fn expect_within(&mut self, seconds: f64, now: SystemTime) {
        let after = Duration::try_from_secs_f64(seconds.max(0.0)).ok();
        let end = after.and_then(|after| now.checked_add(after));
        self.expected_end = match (self.expected_end, end) {
            (Some(limit), Some(end)) => Some(limit.min(end)),
            (limit, end) => limit.or(end),
        };
    }
}

/// State of work that has not recorded an end.
pub(super) fn unfinished(worker: &Worker, alive: Liveness) -> (State, Option<String>) {
    match alive {
        Liveness::Alive => (State::Running, None),
        Liveness::Dead => (
            State::Interrupted,
            Some(format!(
                "{} exited without recording how it ended",
                worker.described()
            )),
        ),
        Liveness::Expired(silent) => (
            State::Interrupted,
            Some(format!(
                "{} has not updated its files for {}",
                worker.described(),
                span(silent)
            )),
        ),
        Liveness::ClockAhead(ahead) => (
            State::Interrupted,
            Some(format!(
                "the last update of {} is {} in the future; synchronise the clocks",
                worker.described(),
                span(ahead)
            )),
        ),
    }
}

/// The latest modification time of the existing `files`.
pub(super) fn last_written<'a>(files: impl IntoIterator<Item = &'a Path>) -> Option<SystemTime> {
    let times = files
        .into_iter()
        .filter_map(|file| std::fs::metadata(file).ok()?.modified().ok());
    times.max()
}

/// Time since `time`; zero if unknown or in the future.
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
    fn spans_have_at_most_two_units() {
        let text = |seconds: u64| span(Duration::from_secs(seconds));
        assert_eq!(text(0), "0 s");
        assert_eq!(text(119), "1 min");
        assert_eq!(text(3600 * 3 + 60 * 20), "3 h 20 min");
        assert_eq!(text(86_400 * 2 + 3600 * 5 + 59), "2 d 5 h");
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
