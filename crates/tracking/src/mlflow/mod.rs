//! Tracks runs on an MLflow server (<https://mlflow.org>). Runs never wait for the server.
//!
//! Everything is appended to `tracking/events.jsonl` in the run folder (`spool`). A thread (`sender`) reads the file,
//! uploads it (`delivery`) through MLflow's REST API (`api`) and saves its position (`tracking/delivered.json`), from
//! which the next process, or `ctseg sync`, continues.

pub mod api;
mod artifact_folder;
pub mod artifacts;
mod batch;
mod cursor;
mod deleted;
pub mod delivery;
pub mod error;
mod event;
mod event_reader;
mod experiment;
mod files;
pub mod http;
mod model;
mod network_run;
pub mod parent;
pub mod parent_run;
mod portion;
pub mod probe;
mod sender;
pub mod settings;
mod spool;
pub mod sync;
mod system_monitor;
pub mod trusted;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ctseg_base::Result;
use ctseg_base::process::id::ProcessId;
use ctseg_base::progress::Observer;
use ctseg_core::run::folder::{RunFolder, run_name};
use ctseg_core::run::metric_names;
use ctseg_core::run::tracker;
use ctseg_core::run::tracker::{EpochRecord, Outcome, Point, RunIdentity, Tracker};

use delivery::Link;
use event::{Event, RunStart};
use parent::Parent;
use sender::{FlushTimeout, Flushed, Sender};
use settings::Server;
use spool::Spool;
use system_monitor::SystemMonitor;

/// Records runs and, if there is a server, uploads them.
pub struct Mlflow {
    /// The name of the experiment, if known.
    experiment: Option<String>,
    /// Name that models are registered under, instead of the one from their runs.
    model: Option<String>,
    /// Parent of runs that are not trials of a sweep.
    parent_run: Option<Parent>,
    sender: Option<Sender>,
    observer: Arc<dyn Observer>,
    /// Runs that have started and not ended. Events belong to the last.
    open: Arc<Mutex<Vec<OpenRun>>>,
    /// Runs while there are open runs.
    monitor: Mutex<Option<SystemMonitor>>,
}

struct OpenRun {
    folder: PathBuf,
    spool: Spool,
    key: String,
    /// Number of system metric samples of this process.
    samples: u64,
    /// The last write failed, and its error was returned.
    is_failing: bool,
}

impl Mlflow {
    /// Without a `server`, events stay in the run folders for `ctseg sync`. `experiment` is the experiment of the runs,
    /// `model` the name that models are registered under.
    ///
    /// # Errors
    /// Certificates that cannot be read.
    pub fn new(
        server: Option<Server>,
        experiment: Option<String>,
        model: Option<String>,
        observer: &Arc<dyn Observer>,
    ) -> Result<Self> {
        let sender = match server {
            Some(server) => {
                let link = Arc::new(Link::open(server)?);
                Some(Sender::start(link, Arc::clone(observer)))
            }
            None => None,
        };
        Ok(Self {
            experiment,
            model,
            parent_run: None,
            sender,
            observer: Arc::clone(observer),
            open: Arc::default(),
            monitor: Mutex::default(),
        })
    }

    /// Sets the parent of runs that are not trials.
    pub fn with_parent_run(self, parent_run: Option<Parent>) -> Self {
        Self { parent_run, ..self }
    }

    fn open(&self) -> MutexGuard<'_, Vec<OpenRun>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts or stops sampling system metrics.
    fn monitor(&self, is_wanted: bool) {
        let mut monitor = self.monitor.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_wanted {
            *monitor = None;
        } else if monitor.is_none() {
            let open = Arc::clone(&self.open);
            *monitor = Some(SystemMonitor::start(move |values| {
                record_system_metrics(&open, values)
            }));
        }
    }

    /// Writes to the spool of the run that started last. Of consecutive write errors only the first is returned.
    fn record(&self, what: impl FnOnce(&Path, &mut Spool) -> Result<()>) -> Result<()> {
        let mut open = self.open();
        let Some(run) = open.last_mut() else {
            return Ok(());
        };
        let result = what(&run.folder, &mut run.spool);
        let was_failing = std::mem::replace(&mut run.is_failing, result.is_err());
        result.or_else(|error| if was_failing { Ok(()) } else { Err(error) })
    }

    fn model_event(&self, folder: &Path, made: &tracker::TrainedModel) -> Event {
        Event::Model {
            bundle: relative(folder, &made.bundle),
            sha256: made.sha256.clone(),
            name: self.model.clone().unwrap_or_else(|| made.name.clone()),
            structures: made.structures.clone(),
            spacing_mm: made.spacing_mm.clone(),
        }
    }

    /// Waits for pending uploads, and warns if some remain.
    fn flush(&self, sender: &Sender, run: &RunIdentity, outcome: &Outcome) {
        let timeout = match outcome {
            Outcome::Interrupted => FlushTimeout::INTERRUPTED,
            _ => FlushTimeout::default(),
        };
        // The cause has been reported.
        if sender.flush(timeout) == Flushed::Partly {
            self.observer.warn(&format!(
                "MLflow: some events of this run are not uploaded yet; run 'ctseg sync {}'",
                run.folder.display()
            ));
        }
    }
}

impl Tracker for Mlflow {
    fn run_started(&self, run: &RunIdentity) -> Result<()> {
        let mut open = self.open();
        open.retain(|known| known.folder != run.folder);
        let mut spool = Spool::open(run.folder)?;
        let key = spool.key();
        let recipe = RunFolder::read(run.folder).ok().map(|(recipe, _)| recipe);
        let name = match (&recipe, run.parent) {
            (None, _) => run.name.to_owned(),
            (Some(recipe), None) => run_name(recipe),
            (Some(recipe), Some(_)) => format!("{} {}", run.name, run_name(recipe)),
        };
        let parent = run.parent.and_then(|_| open.last());
        spool.start_run(RunStart {
            key: key.clone(),
            name,
            run: run.name.to_owned(),
            parent: parent.map(|parent| parent.key.clone()),
            parent_run: match run.parent {
                Some(_) => None,
                None => self.parent_run.clone(),
            },
            networks: recipe.map_or(1, |recipe| recipe.trained_folds().len()),
            experiment: self.experiment.clone(),
            user: settings::process_environment("USER")
                .or_else(|| settings::process_environment("LOGNAME")),
            process: ProcessId::current().to_string(),
        })?;
        open.push(OpenRun {
            folder: run.folder.to_path_buf(),
            spool,
            key,
            samples: 0,
            is_failing: false,
        });
        drop(open);
        self.monitor(true);
        if let Some(sender) = &self.sender {
            sender.add(run.folder);
        }
        Ok(())
    }

    fn log_epoch(&self, record: &EpochRecord) -> Result<()> {
        let point = Point {
            step: record.progress.epoch as u64,
            time_ms: spool::now(),
            values: metric_names::epoch_metrics(record),
        };
        self.record(|_, spool| {
            spool.metrics(Some(record.network), &[point], record.interrupted)?;
            spool.sync()
        })
    }

    fn log_event(&self, event: &tracker::Event) -> Result<()> {
        self.record(|folder, spool| match event {
            tracker::Event::Parameters(values) => spool.parameters(values),
            tracker::Event::Tags(values) => spool.tags(values),
            tracker::Event::Metrics { network, points } => {
                spool.metrics(network.as_deref(), points, false)
            }
            tracker::Event::Artifact { path, to } => spool.append(Event::Artifact {
                path: relative(folder, path),
                to: to.clone(),
            }),
            tracker::Event::Dataset(used) => spool.append(Event::dataset(used)),
            tracker::Event::Model(made) => spool.append(self.model_event(folder, made)),
        })
    }

    fn run_ended(&self, run: &RunIdentity, outcome: &Outcome) -> Result<()> {
        let (ended, is_last) = {
            let mut open = self.open();
            let Some(index) = open.iter().position(|known| known.folder == run.folder) else {
                return Ok(());
            };
            let mut run = open.remove(index);
            let written = run.spool.append(Event::ended(outcome));
            (written.and_then(|()| run.spool.sync()), open.is_empty())
        };
        if is_last {
            self.monitor(false);
        }
        if let Some(sender) = &self.sender {
            sender.ended(run.folder);
            if is_last {
                self.flush(sender, run, outcome);
            }
        }
        ended
    }
}

/// Records a sample. Write errors are ignored here; the next event of the run reports them.
fn record_system_metrics(open: &Mutex<Vec<OpenRun>>, values: Vec<(String, f64)>) {
    let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(run) = open.last_mut() else {
        return;
    };
    let point = Point {
        step: run.samples,
        time_ms: spool::now(),
        values,
    };
    if run.spool.metrics(None, &[point], false).is_ok() {
        run.samples += 1;
    }
}

/// `path` relative to the run folder, so that both can be moved together; absolute if they have no folder in common.
fn relative(folder: &Path, path: &Path) -> String {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let (folder, path) = (absolute(folder), absolute(path));
    let shared = folder
        .components()
        .zip(path.components())
        .take_while(|(a, b)| a == b)
        .count();
    if shared < 2 {
        return path.to_string_lossy().into_owned();
    }
    let up = folder.components().skip(shared).map(|_| Path::new(".."));
    let down = path
        .components()
        .skip(shared)
        .map(|part| Path::new(part.as_os_str()).to_path_buf());
    let found: PathBuf = up.map(Path::to_path_buf).chain(down).collect();
    found.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_relative_to_the_run() {
        for (folder, path, seen) in [
            (
                "/data/runs/r1",
                "/data/runs/r1/plots/loss.png",
                "plots/loss.png",
            ),
            ("/data/runs/r1", "/data/model", "../../model"),
            ("/data/runs/r1", "/elsewhere/model", "/elsewhere/model"),
        ] {
            assert_eq!(relative(Path::new(folder), Path::new(path)), seen);
        }
    }
}
