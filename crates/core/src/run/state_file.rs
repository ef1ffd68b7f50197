//! Who works on a run, how far the work is and how it ended: `state.json` in the run's folder. It is written when a
//! process begins to work on the run, every few seconds while it does, and at its end; what a process that was
//! killed has left tells that no end was written.

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
use ctseg_base::temp_files::remove_leftovers;
use ctseg_base::text::file::read_text;
use ctseg_base::{Error, Result};

/// The file's name in a run folder.
pub const FILE: &str = "state.json";

/// Often enough for people who look on, seldom enough for any file server.
const WRITE_EVERY: Duration = Duration::from_secs(15);

/// `state.json`. Times are RFC 3339 in UTC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    pub ctseg_version: String,
    /// Such as `fit`.
    pub command: String,
    #[serde(flatten)]
    pub worker: Worker,
    /// When the process began with it.
    pub begun: String,
    /// When it shall be over, where a time was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// What is under way.
    pub task: Option<TaskState>,
    /// What was said last.
    pub last_line: Option<String>,
    /// None while the process works, and after a kill.
    pub ended: Option<Ending>,
}

/// A piece of work that is under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskState {
    pub name: String,
    pub done: u64,
    /// 0 where it is not known.
    pub total: u64,
    pub unit: String,
    /// Since it began.
    pub seconds: f64,
    /// Such as the loss; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// How the work came to its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ending {
    pub at: String,
    pub outcome: Ended,
    /// Why it failed.
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
    /// The state in the file at `path` and the user that wrote it; none where there is no such file.
    ///
    /// # Errors
    /// It cannot be read, or holds something else.
    pub fn read(path: &Path) -> Result<Option<(Self, u32)>> {
        let owner = match std::fs::metadata(path) {
            Ok(metadata) => metadata.uid(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(path, "read")(error)),
        };
        let text = read_text(path).map_err(Error::io(path, "read"))?;
        let state = serde_json::from_str(&text)
            .map_err(|error| Error::file(path, format!("is no state of a run: {error}")))?;
        Ok(Some((state, owner)))
    }
}

/// This moment, as files have it.
pub fn now() -> String {
    time_text(jiff::Timestamp::now())
}

/// RFC 3339 in UTC, to the second.
pub fn time_text(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Keeps the file while the work goes on, from what an observer hears; passes all of that on.
pub struct StateKeeper<'a> {
    inner: &'a dyn Observer,
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    path: PathBuf,
    known: Mutex<Known>,
    tasks: TaskList,
    woken: Condvar,
}

struct Known {
    state: RunState,
    over: bool,
}

impl<'a> StateKeeper<'a> {
    /// Writes that this process begins with `command`, to be over after `limit` if there is one.
    ///
    /// # Errors
    /// The file cannot be written; no thread can be started to write it now and then.
    pub fn begin(
        path: &Path,
        command: &str,
        limit: Option<Duration>,
        inner: &'a dyn Observer,
    ) -> Result<Self> {
        let begun = jiff::Timestamp::now();
        // A time that no calendar has is as good as none.
        let until = limit.and_then(|limit| begun.checked_add(limit).ok());
        let state = RunState {
            ctseg_version: env!("CARGO_PKG_VERSION").to_owned(),
            command: command.to_owned(),
            worker: Worker::own(),
            begun: time_text(begun),
            until: until.map(time_text),
            task: None,
            last_line: None,
            ended: None,
        };
        let shared = Arc::new(Shared {
            path: path.to_path_buf(),
            known: Mutex::new(Known { state, over: false }),
            tasks: TaskList::default(),
            woken: Condvar::new(),
        });
        shared.write()?;
        // Of the file itself, by a process that was killed while it wrote.
        remove_leftovers(parent_of(path))?;
        let own = Arc::clone(&shared);
        let writer = spawn("state", move || own.keep())?;
        Ok(Self {
            inner,
            shared,
            writer: Mutex::new(Some(writer)),
        })
    }

    /// Writes how the work ended. A file that cannot be written ends nothing: that is said.
    pub fn ended(&self, outcome: &Outcome) {
        self.stop_writing();
        let (ended, reason) = match outcome {
            Outcome::Finished => (Ended::Finished, None),
            Outcome::Interrupted => (Ended::Interrupted, None),
            Outcome::Failed(reason) => (Ended::Failed, Some(reason.clone())),
        };
        self.shared.known().state.ended = Some(Ending {
            at: now(),
            outcome: ended,
            reason,
        });
        if let Err(error) = self.shared.write() {
            self.inner.warn(&error.to_string());
        }
    }

    fn stop_writing(&self) {
        self.shared.known().over = true;
        self.shared.woken.notify_all();
        let writer = self.writer.lock();
        let writer = writer.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let _ = writer.join(); // it writes files and cannot fail otherwise
        }
    }

    fn heard(&self, line: &str) {
        self.shared.known().state.last_line = Some(line.to_owned());
    }
}

impl Drop for StateKeeper<'_> {
    fn drop(&mut self) {
        self.stop_writing();
        if self.shared.known().state.ended.is_none() {
            let reason = "it was broken off by an error that is told elsewhere";
            self.ended(&Outcome::Failed(reason.to_owned()));
        }
    }
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes now and then until it is over.
    fn keep(&self) {
        let mut known = self.known();
        while !known.over {
            let waited = self.woken.wait_timeout(known, WRITE_EVERY);
            let (awake, waiting) = waited.unwrap_or_else(PoisonError::into_inner);
            known = awake;
            if !known.over && waiting.timed_out() {
                drop(known);
                let _ = self.write(); // storage that is away for a while comes back
                known = self.known();
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
            ..self.known().state.clone()
        }
    }

    fn write(&self) -> Result<()> {
        let state = self.now();
        let text = serde_json::to_string_pretty(&state)
            .map_err(|error| Error::file(&self.path, format!("cannot write: {error}")))?;
        write_bytes_atomically(&self.path, format!("{text}\n").as_bytes())
    }
}

impl Observer for StateKeeper<'_> {
    fn say(&self, line: &str) {
        self.heard(line);
        self.inner.say(line);
    }

    fn warn(&self, line: &str) {
        self.heard(&format!("warning: {line}"));
        self.inner.warn(line);
    }

    fn log(&self, line: &str) {
        self.heard(line);
        self.inner.log(line);
    }

    fn task(&self, name: &str, total: u64, unit: &'static str) -> Box<dyn Task> {
        Box::new(KeptTask {
            inner: self.inner.task(name, total, unit),
            count: self.shared.tasks.begin(name, total, unit),
            shared: Arc::clone(&self.shared),
        })
    }

    fn board(&self, text: &str) {
        self.inner.board(text);
    }

    fn cases(&self, counts: &CaseCounts) {
        self.inner.cases(counts);
    }
}

struct KeptTask {
    inner: Box<dyn Task>,
    count: Arc<TaskCount>,
    shared: Arc<Shared>,
}

impl Task for KeptTask {
    fn advance(&self, steps: u64) {
        self.count.advance(steps);
        self.inner.advance(steps);
    }

    fn note(&self, text: &str) {
        self.count.set_note(text);
        self.inner.note(text);
    }
}

impl Drop for KeptTask {
    fn drop(&mut self) {
        self.shared.tasks.end(&self.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctseg_base::progress::Silent;

    #[test]
    fn a_state_tells_who_works_how_far_and_how_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        assert_eq!(RunState::read(&path).unwrap(), None);
        let read = || RunState::read(&path).unwrap().unwrap().0;
        let hour = Some(Duration::from_secs(3600));
        let keeper = StateKeeper::begin(&path, "fit", hour, &Silent).unwrap();
        let begun = read();
        assert_eq!(begun.worker, Worker::own());
        assert!(begun.until.unwrap() > begun.begun && begun.ended.is_none());
        let outer = keeper.task("fold 0", 2, "epochs");
        let inner = keeper.task("epoch 1", 8, "slices");
        inner.advance(3);
        inner.note("loss 0.5");
        keeper.warn("thin ice");
        keeper.shared.write().unwrap();
        let within = read();
        let task = within.task.unwrap();
        assert_eq!(
            (task.name.as_str(), task.done, task.total),
            ("epoch 1", 3, 8)
        );
        assert_eq!(task.note, "loss 0.5");
        assert_eq!(within.last_line.as_deref(), Some("warning: thin ice"));
        drop(inner);
        assert_eq!(keeper.shared.now().task.unwrap().name, "fold 0");
        drop(outer);
        keeper.ended(&Outcome::Failed("no memory".to_owned()));
        drop(keeper);
        let ending = read().ended.unwrap();
        assert_eq!(ending.outcome, Ended::Failed);
        assert_eq!(ending.reason.as_deref(), Some("no memory"));
        // Work that ends in a panic has an end too.
        drop(StateKeeper::begin(&path, "fit", None, &Silent).unwrap());
        assert_eq!(read().ended.unwrap().outcome, Ended::Failed);
        std::fs::write(&path, "{}").unwrap();
        let error = RunState::read(&path).unwrap_err().to_string();
        assert!(error.contains(FILE) && !error.contains('\n'), "{error}");
    }
}
