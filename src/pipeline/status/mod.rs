//! What is running, done, interrupted or failed, from files alone: of trainings, sweeps, batches of volumes and
//! evaluations. Nothing is written, so that anybody may look who can read the folders.

mod batch;
mod batch_files;
mod evaluation;
mod sweep;
mod training;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use super::run_state::{Ended, RunState, TaskState, time_text};
use super::sweep as sweeps;
use crate::error::{Error, Result};
use crate::worker::{Alive, Worker};

pub use batch::Cases;
pub use evaluation::STATE as EVALUATION;
pub use sweep::Trials;
pub use training::Epochs;

/// How deep runs are looked for: `runs/<job>/<run>`.
const DEPTH: usize = 3;

/// A process that cannot be asked is taken for dead so long after its last sign; it gives several a minute.
const EXPIRY: Duration = Duration::from_secs(300);

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

fn text_of(time: SystemTime) -> Option<String> {
    jiff::Timestamp::try_from(time).ok().map(time_text)
}

impl Status {
    fn new(path: &Path, kind: Kind) -> Self {
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
    fn unreadable(path: &Path, kind: Kind, error: &Error) -> Self {
        Self {
            because: Some(error.to_string()),
            ..Self::new(path, kind)
        }
    }

    /// Takes over what a state says; `owner` is whose file it is.
    fn take_state(&mut self, state: RunState, owner: u32, now: SystemTime) {
        let sign = age(self.last_sign, now);
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
    fn expect_within(&mut self, seconds: f64, now: SystemTime) {
        let after = Duration::try_from_secs_f64(seconds.max(0.0)).ok();
        let end = after.and_then(|after| now.checked_add(after));
        self.expected_end = match (self.expected_end, end) {
            (Some(limit), Some(end)) => Some(limit.min(end)),
            (limit, end) => limit.or(end),
        };
    }
}

/// How work stands whose end nobody has written down.
fn standing(worker: &Worker, alive: Alive) -> (Standing, Option<String>) {
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
    }
}

/// The newest time of `files` that are there.
fn last_written<'a>(files: impl IntoIterator<Item = &'a Path>) -> Option<SystemTime> {
    let times = files
        .into_iter()
        .filter_map(|file| std::fs::metadata(file).ok()?.modified().ok());
    times.max()
}

fn age(time: Option<SystemTime>, now: SystemTime) -> Duration {
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

/// How everything stands that lies at `path`, at the time `now`; by path. A folder may hold two things: label maps
/// and their evaluation.
///
/// # Errors
/// There is nothing there, or the folder cannot be read. What cannot be read of one run costs no other.
pub fn of(path: &Path, now: SystemTime) -> Result<Vec<Status>> {
    let mut found = Vec::new();
    search(path, DEPTH, now, &mut found)?;
    if found.is_empty() {
        return Err(Error::file(
            path,
            "holds no run, sweep, predictions or evaluation; expected one of these, or a folder of them",
        ));
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn search(path: &Path, depth: usize, now: SystemTime, found: &mut Vec<Status>) -> Result<()> {
    let before = found.len();
    let readable = |kind: Kind, status: Result<Status>| {
        status.unwrap_or_else(|error| Status::unreadable(path, kind, &error))
    };
    if path.join(sweeps::FILE).is_file() {
        found.push(readable(Kind::Sweep, sweep::of(path, now)));
    } else if path.join("run.toml").is_file() {
        found.push(readable(Kind::Fit, training::of(path, now)));
    }
    let batches = batch_files::manifests(path)?;
    if !batches.is_empty() {
        found.push(readable(Kind::Predict, batch::of(path, &batches, now)));
    }
    if evaluation::is_at(path) {
        found.push(readable(Kind::Evaluate, evaluation::of(path, now)));
    }
    // What lies in a run is its own, not another run.
    if depth == 0 || found.len() > before {
        return Ok(());
    }
    let entries = std::fs::read_dir(path).map_err(Error::io(path, "read the folder"))?;
    for entry in entries {
        let entry = entry.map_err(Error::io(path, "read the folder"))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // What lies deeper and may not be read is somebody else's.
            let _ = search(&entry.path(), depth - 1, now, found);
        }
    }
    Ok(())
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
