//! Figures of a command's work in a file, for node_exporter's textfile collector: written anew every few seconds, and
//! at the end, always whole.

mod exposition;
mod figures;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ctseg_base::atomic_file::{parent_of, write_bytes_atomically};
use ctseg_base::limits::spawn::spawn;
use ctseg_base::progress::{CaseCounts, Observer, Task};
use ctseg_base::progress_counts::{TaskCount, TaskList};
use ctseg_base::temp_files::remove_leftovers;
use ctseg_base::{Error, Result};
use ctseg_core::run::tracker::{EpochRecord, Event, Tracker};

use figures::Figures;
use figures::seconds_now;

/// Prometheus looks four times a minute unless it is told otherwise.
const WRITE_EVERY: Duration = Duration::from_secs(5);

/// Keeps the file while the command runs.
pub struct MetricsFile {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    path: PathBuf,
    figures: Mutex<Figures>,
    tasks: TaskList,
    over: Mutex<bool>,
    woken: Condvar,
}

impl MetricsFile {
    /// Writes that `command` runs.
    ///
    /// # Errors
    /// The file cannot be written; no thread can be started to write it now and then.
    pub fn begin(path: &Path, command: &str) -> Result<Self> {
        if path.is_dir() {
            let problem = "is a folder; expected a file for --metrics-file, such as ctseg.prom";
            return Err(Error::file(path, problem));
        }
        let shared = Arc::new(Shared {
            path: path.to_path_buf(),
            figures: Mutex::new(Figures {
                command: command.to_owned(),
                begun: seconds_now(),
                last_progress: seconds_now(),
                ..Figures::default()
            }),
            tasks: TaskList::default(),
            over: Mutex::new(false),
            woken: Condvar::new(),
        });
        shared.write()?;
        // Of the file itself, by a process that was killed while it wrote.
        remove_leftovers(parent_of(path))?;
        let own = Arc::clone(&shared);
        let writer = spawn("metrics file", move || own.keep())?;
        Ok(Self {
            shared,
            writer: Mutex::new(Some(writer)),
        })
    }

    /// Tells what is computed on, in words.
    pub fn computes_on(&self, engine: &str) {
        engine.clone_into(&mut self.shared.figures().engine);
    }

    /// The command is over: the file says so, and is not written again.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn ended(&self, exit_code: u8) -> Result<()> {
        *self.shared.is_over() = true;
        self.shared.woken.notify_all();
        let writer = self.writer.lock();
        let writer = writer.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let _ = writer.join(); // it writes files and cannot fail otherwise
        }
        self.shared.figures().exit_code = Some(exit_code);
        self.shared.write()
    }
}

impl Shared {
    fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> MutexGuard<'_, bool> {
        self.over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something has moved.
    fn moved(&self) -> MutexGuard<'_, Figures> {
        let mut figures = self.figures();
        figures.last_progress = seconds_now();
        figures
    }

    /// Writes now and then until it is over.
    fn keep(&self) {
        let mut over = self.is_over();
        while !*over {
            let waited = self.woken.wait_timeout(over, WRITE_EVERY);
            over = waited.unwrap_or_else(PoisonError::into_inner).0;
            if !*over {
                drop(over);
                let _ = self.write(); // a disk that is full for a while; the end says whether it still is
                over = self.is_over();
            }
        }
    }

    fn write(&self) -> Result<()> {
        let text = self.figures().text(&self.tasks.now());
        write_bytes_atomically(&self.path, text.as_bytes())
    }
}

impl Tracker for MetricsFile {
    fn epoch(&self, record: &EpochRecord) -> Result<()> {
        let mut figures = self.shared.moved();
        let network = figures
            .networks
            .entry(record.network.to_owned())
            .or_default();
        network.epoch = record.progress.epoch;
        network.loss = record.mean_loss;
        network.learning_rate = record.learning_rate;
        network.dice = record.validation.dice;
        network.best_dice = match record.progress.best {
            Some((_, best)) => best,
            None => record.validation.dice,
        };
        network.validated = true;
        Ok(())
    }

    fn happened(&self, event: &Event) -> Result<()> {
        let Event::Metrics {
            network: Some(network),
            points,
        } = event
        else {
            return Ok(());
        };
        let last = points.iter().rev().find_map(|point| {
            let mut values = point.values.iter();
            values.find_map(|(name, value)| (name == "step/loss").then_some(*value))
        });
        if let Some(loss) = last {
            let mut figures = self.shared.moved();
            let network = figures.networks.entry(network.clone()).or_default();
            network.step_loss = Some(loss);
        }
        Ok(())
    }
}

/// Passes everything on and counts it.
pub struct Metered {
    inner: Arc<dyn Observer>,
    file: Arc<MetricsFile>,
}

impl Metered {
    pub fn new(inner: Arc<dyn Observer>, file: &Arc<MetricsFile>) -> Self {
        Self {
            inner,
            file: Arc::clone(file),
        }
    }
}

impl Observer for Metered {
    fn say(&self, line: &str) {
        drop(self.file.shared.moved());
        self.inner.say(line);
    }

    fn warn(&self, line: &str) {
        self.file.shared.moved().warnings += 1;
        self.inner.warn(line);
    }

    fn log(&self, line: &str) {
        self.inner.log(line);
    }

    fn task(&self, name: &str, total: u64, unit: &'static str) -> Box<dyn Task> {
        let shared = Arc::clone(&self.file.shared);
        Box::new(MeteredTask {
            inner: self.inner.task(name, total, unit),
            count: shared.tasks.begin(name, total, unit),
            shared,
        })
    }

    fn cases(&self, counts: &CaseCounts) {
        self.file.shared.moved().cases = Some(*counts);
        self.inner.cases(counts);
    }

    fn board(&self, text: &str) {
        self.inner.board(text);
    }
}

struct MeteredTask {
    inner: Box<dyn Task>,
    count: Arc<TaskCount>,
    shared: Arc<Shared>,
}

impl Task for MeteredTask {
    fn advance(&self, steps: u64) {
        self.count.advance(steps);
        drop(self.shared.moved());
        self.inner.advance(steps);
    }

    fn note(&self, text: &str) {
        self.inner.note(text);
    }
}

impl Drop for MeteredTask {
    fn drop(&mut self) {
        self.shared.tasks.end(&self.count);
        self.shared.moved().take_over(&self.count);
    }
}
