//! Status of a run: `state.json` in its folder names the process, its progress and how it ended. It is written when a
//! process starts to work on the run, every few seconds, and at the end. After a kill it records no end.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::tracker::Outcome;
use ctseg_base::atomic_file::{parent_of, write_bytes_atomically};
use ctseg_base::limits::spawn::spawn;
use ctseg_base::process::owner::Worker;
use ctseg_base::progress::{CaseCounts, Observer, Task};
use ctseg_base::progress_counts::{TaskCount, TaskList};
use ctseg_base::temp_files::remove_stale_temp_files;
use ctseg_base::text::file::read_text;
use ctseg_base::{Error, Result};

/// The file's name in a run folder.
pub const FILE: &str = "state.json";

/// Frequent enough for monitoring, rare enough for any file server.
const WRITE_EVERY: Duration = Duration::from_secs(15);

/// `state.json`. Times are RFC 3339 in UTC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    pub ctseg_version: String,
    /// Such as `fit`.
    pub command: String,
    #[serde(flatten)]
    pub worker: Worker,
    /// When the process started.
    #[serde(rename = "begun")]
    pub started: String,
    /// When it must end, if a time limit was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    pub task: Option<TaskState>,
    pub last_line: Option<String>,
    /// None while the process runs, and after a kill.
    pub ended: Option<Ending>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskState {
    pub name: String,
    pub done: u64,
    /// 0 if unknown.
    pub total: u64,
    pub unit: String,
    /// Since its start.
    pub seconds: f64,
    /// Such as the loss; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ending {
    pub at: String,
    pub outcome: Ended,
    /// The error, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// See [`Outcome`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    Finished,
    Interrupted,
    Failed,
}

impl RunState {
    /// Reads the state at `path`, with the id of the file's owner; none without such a file.
    ///
    /// # Errors
    /// The file cannot be read or parsed.
    pub fn read(path: &Path) -> Result<Option<(Self, u32)>> {
        let owner = match std::fs::metadata(path) {
            Ok(metadata) => metadata.uid(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(path, "read")(error)),
        };
        let text = read_text(path).map_err(Error::io(path, "read"))?;
        let state = serde_json::from_str(&text)
            .map_err(|error| Error::file(path, format!("not the state of a run: {error}")))?;
        Ok(Some((state, owner)))
    }
}

/// The current time as in `state.json`.
pub fn now() -> String {
    time_text(jiff::Timestamp::now())
}

/// RFC 3339 in UTC, to the second.
pub fn time_text(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Writes the file periodically, from what it observes; forwards everything to another observer.
pub struct StateWriter<'a> {
    inner: &'a dyn Observer,
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    path: PathBuf,
    status: Mutex<Status>,
    tasks: TaskList,
    woken: Condvar,
}

struct Status {
    state: RunState,
    over: bool,
}

impl<'a> StateWriter<'a> {
    /// Writes that this process starts `command`, with the time limit `limit`, if any.
    ///
    /// # Errors
    /// The file cannot be written; the writer thread cannot be started.
    pub fn start(
        path: &Path,
        command: &str,
        limit: Option<Duration>,
        inner: &'a dyn Observer,
    ) -> Result<Self> {
        let started = jiff::Timestamp::now();
        // A limit beyond the calendar is no limit.
        let until = limit.and_then(|limit| started.checked_add(limit).ok());
        let state = RunState {
            ctseg_version: env!("CARGO_PKG_VERSION").to_owned(),
            command: command.to_owned(),
            worker: Worker::current(),
            started: time_text(started),
            until: until.map(time_text),
            task: None,
            last_line: None,
            ended: None,
        };
        let shared = Arc::new(Shared {
            path: path.to_path_buf(),
            status: Mutex::new(Status { state, over: false }),
            tasks: TaskList::default(),
            woken: Condvar::new(),
        });
        shared.write()?;
        // Partial files of a process that was killed while writing.
        remove_stale_temp_files(parent_of(path))?;
        let own = Arc::clone(&shared);
        let writer = spawn("state", move || own.write_periodically())?;
        Ok(Self {
            inner,
            shared,
            writer: Mutex::new(Some(writer)),
        })
    }

    /// Writes how the process ended. Failure to write the file is only a warning.
    pub fn finish(&self, outcome: &Outcome) {
        self.stop_writing();
        let (ended, reason) = match outcome {
            Outcome::Finished => (Ended::Finished, None),
            Outcome::Interrupted => (Ended::Interrupted, None),
            Outcome::Failed(reason) => (Ended::Failed, Some(reason.clone())),
        };
        self.shared.lock().state.ended = Some(Ending {
            at: now(),
            outcome: ended,
            reason,
        });
        if let Err(error) = self.shared.write() {
            self.inner.warn(&error.to_string());
        }
    }

    fn stop_writing(&self) {
        self.shared.lock().over = true;
        self.shared.woken.notify_all();
        let writer = self.writer.lock();
        let writer = writer.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let _ = writer.join(); // fails only if the thread panicked
        }
    }

    fn set_last_line(&self, line: &str) {
        self.shared.lock().state.last_line = Some(line.to_owned());
    }
}

impl Drop for StateWriter<'_> {
    fn drop(&mut self) {
        self.stop_writing();
        if self.shared.lock().state.ended.is_none() {
            let reason = "stopped by an error; see the log";
            self.finish(&Outcome::Failed(reason.to_owned()));
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the file at intervals until the work is over.
    fn write_periodically(&self) {
        let mut status = self.lock();
        while !status.over {
            let waited = self.woken.wait_timeout(status, WRITE_EVERY);
            let (woken, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            status = woken;
            if !status.over && timeout.timed_out() {
                drop(status);
                let _ = self.write(); // tried again: storage may be temporarily unavailable
                status = self.lock();
            }
        }
    }

    fn now(&self) -> RunState {
        let task = self.tasks.now().pop().map(|task| TaskState {
            name: task.name.clone(),
            done: task.done(),
            total: task.total,
            unit: task.unit.to_owned(),
            seconds: (task.seconds() * 10.0).round() / 10.0,
            note: task.note(),
        });
        RunState {
            task,
            ..self.lock().state.clone()
        }
    }

    fn write(&self) -> Result<()> {
        let state = self.now();
        let text = serde_json::to_string_pretty(&state).map_err(|error| {
            Error::file(&self.path, format!("cannot serialise the state: {error}"))
        })?;
        write_bytes_atomically(&self.path, format!("{text}\n").as_bytes())
    }
}

impl Observer for StateWriter<'_> {
    fn info(&self, line: &str) {
        self.set_last_line(line);
        self.inner.info(line);
    }

    fn warn(&self, line: &str) {
        self.set_last_line(&format!("warning: {line}"));
        self.inner.warn(line);
    }

    fn log(&self, line: &str) {
        self.set_last_line(line);
        self.inner.log(line);
    }

    fn task(&self, name: &str, total: u64, unit: &'static str) -> Box<dyn Task> {
        Box::new(ObservedTask {
            inner: self.inner.task(name, total, unit),
            count: self.shared.tasks.begin(name, total, unit),
            shared: Arc::clone(&self.shared),
        })
    }

    fn set_live_table(&self, text: &str) {
        self.inner.set_live_table(text);
    }

    fn cases(&self, counts: &CaseCounts) {
        self.inner.cases(counts);
    }
}

struct ObservedTask {
    inner: Box<dyn Task>,
    count: Arc<TaskCount>,
    shared: Arc<Shared>,
}

impl Task for ObservedTask {
    fn advance(&self, steps: u64) {
        self.count.advance(steps);
        self.inner.advance(steps);
    }

    fn note(&self, text: &str) {
        self.count.set_note(text);
        self.inner.note(text);
    }
}

impl Drop for ObservedTask {
    fn drop(&mut self) {
        self.shared.tasks.end(&self.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctseg_base::progress::Silent;

    #[test]
    fn the_state_has_process_progress_and_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        assert_eq!(RunState::read(&path).unwrap(), None);
        let read = || RunState::read(&path).unwrap().unwrap().0;
        let hour = Some(Duration::from_secs(3600));
        let writer = StateWriter::start(&path, "fit", hour, &Silent).unwrap();
        let started = read();
        assert_eq!(started.worker, Worker::current());
        assert!(started.until.unwrap() > started.started && started.ended.is_none());
        let outer = writer.task("fold 0", 2, "epochs");
        let inner = writer.task("epoch 1", 8, "slices");
        inner.advance(3);
        inner.note("loss 0.5");
        writer.warn("thin ice");
        writer.shared.write().unwrap();
        let within = read();
        let task = within.task.unwrap();
        assert_eq!(
            (task.name.as_str(), task.done, task.total),
            ("epoch 1", 3, 8)
        );
        assert_eq!(task.note, "loss 0.5");
        assert_eq!(within.last_line.as_deref(), Some("warning: thin ice"));
        drop(inner);
        assert_eq!(writer.shared.now().task.unwrap().name, "fold 0");
        drop(outer);
        writer.finish(&Outcome::Failed("no memory".to_owned()));
        drop(writer);
        let ending = read().ended.unwrap();
        assert_eq!(ending.outcome, Ended::Failed);
        assert_eq!(ending.reason.as_deref(), Some("no memory"));
        // A writer dropped by a panic records an end too.
        drop(StateWriter::start(&path, "fit", None, &Silent).unwrap());
        assert_eq!(read().ended.unwrap().outcome, Ended::Failed);
        std::fs::write(&path, "{}").unwrap();
        let error = RunState::read(&path).unwrap_err().to_string();
        assert!(error.contains(FILE) && !error.contains('\n'), "{error}");
    }
}
