//! Metrics of a running command in a file, for node_exporter's textfile collector: rewritten atomically every few
//! seconds, and at the end.

mod exposition;
mod metrics;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ctseg_base::atomic_file::{parent_of, write_bytes_atomically};
use ctseg_base::limits::spawn::spawn;
use ctseg_base::progress::{CaseCounts, Observer, Task};
use ctseg_base::progress_counts::{TaskCount, TaskList};
use ctseg_base::temp_files::remove_stale_temp_files;
use ctseg_base::{Error, Result};
use ctseg_core::run::tracker::{EpochRecord, Event, Tracker};

use metrics::Metrics;
use metrics::seconds_now;

/// Shorter than the usual scrape interval of 15 s.
const WRITE_INTERVAL: Duration = Duration::from_secs(5);

/// Writes the file while the command runs.
pub struct MetricsFile {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    path: PathBuf,
    metrics: Mutex<Metrics>,
    tasks: TaskList,
    ended: Mutex<bool>,
    wake: Condvar,
}

impl MetricsFile {
    /// Writes the file for `command` and starts the thread that rewrites it.
    ///
    /// # Errors
    /// The file cannot be written, or no thread can be started.
    pub fn start(path: &Path, command: &str) -> Result<Self> {
        if path.is_dir() {
            let problem = "is a folder; expected a file for --metrics-file, such as ctseg.prom";
            return Err(Error::file(path, problem));
        }
        let shared = Arc::new(Shared {
            path: path.to_path_buf(),
            metrics: Mutex::new(Metrics {
                command: command.to_owned(),
                started_at: seconds_now(),
                last_progress: seconds_now(),
                ..Metrics::default()
            }),
            tasks: TaskList::default(),
            ended: Mutex::new(false),
            wake: Condvar::new(),
        });
        shared.write()?;
        // Temporary files of this file, from killed processes.
        remove_stale_temp_files(parent_of(path))?;
        let own = Arc::clone(&shared);
        let writer = spawn("metrics file", move || own.write_periodically())?;
        Ok(Self {
            shared,
            writer: Mutex::new(Some(writer)),
        })
    }

    /// Sets the description of the engine.
    pub fn set_engine(&self, engine: &str) {
        engine.clone_into(&mut self.shared.metrics().engine);
    }

    /// Writes the exit code. The file is not written again.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(&self, exit_code: u8) -> Result<()> {
        *self.shared.ended_flag() = true;
        self.shared.wake.notify_all();
        let writer = self.writer.lock();
        let writer = writer.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let _ = writer.join(); // write errors are handled in the thread
        }
        self.shared.metrics().exit_code = Some(exit_code);
        self.shared.write()
    }
}

impl Shared {
    fn metrics(&self) -> MutexGuard<'_, Metrics> {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended_flag(&self) -> MutexGuard<'_, bool> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the time of the last progress.
    fn mark_progress(&self) -> MutexGuard<'_, Metrics> {
        let mut metrics = self.metrics();
        metrics.last_progress = seconds_now();
        metrics
    }

    /// Writes periodically until the command ends.
    fn write_periodically(&self) {
        let mut ended = self.ended_flag();
        while !*ended {
            let waited = self.wake.wait_timeout(ended, WRITE_INTERVAL);
            ended = waited.unwrap_or_else(PoisonError::into_inner).0;
            if !*ended {
                drop(ended);
                let _ = self.write(); // the disk may be full for a while; `finish` reports an error that remains
                ended = self.ended_flag();
            }
        }
    }

    fn write(&self) -> Result<()> {
        let text = self.metrics().text(&self.tasks.now());
        write_bytes_atomically(&self.path, text.as_bytes())
    }
}

impl Tracker for MetricsFile {
    fn log_epoch(&self, record: &EpochRecord) -> Result<()> {
        let mut metrics = self.shared.mark_progress();
        let network = metrics
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

    fn log_event(&self, event: &Event) -> Result<()> {
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
            let mut metrics = self.shared.mark_progress();
            let network = metrics.networks.entry(network.clone()).or_default();
            network.step_loss = Some(loss);
        }
        Ok(())
    }
}

/// Forwards everything to another observer and counts it.
pub struct MeteredObserver {
    inner: Arc<dyn Observer>,
    file: Arc<MetricsFile>,
}

impl MeteredObserver {
    pub fn new(inner: Arc<dyn Observer>, file: &Arc<MetricsFile>) -> Self {
        Self {
            inner,
            file: Arc::clone(file),
        }
    }
}

impl Observer for MeteredObserver {
    fn info(&self, line: &str) {
        drop(self.file.shared.mark_progress());
        self.inner.info(line);
    }

    fn warn(&self, line: &str) {
        self.file.shared.mark_progress().warnings += 1;
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
        self.file.shared.mark_progress().cases = Some(*counts);
        self.inner.cases(counts);
    }

    fn set_live_table(&self, text: &str) {
        self.inner.set_live_table(text);
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
        drop(self.shared.mark_progress());
        self.inner.advance(steps);
    }

    fn note(&self, text: &str) {
        self.inner.note(text);
    }
}

impl Drop for MeteredTask {
    fn drop(&mut self) {
        self.shared.tasks.end(&self.count);
        self.shared.mark_progress().record_finished(&self.count);
    }
}
