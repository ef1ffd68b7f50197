//! Runs in an MLflow server (<https://mlflow.org>), which is never waited for.
//!
//! All that a run tells is appended to `tracking/events.jsonl` in its folder (`spool`). A thread (`sender`) reads
//! it from there and sends it (`delivery`) through MLflow's REST API (`api`), and writes down how far it has come
//! (`tracking/delivered.json`), so that the next process, or `ctseg sync`, goes on from there.

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
mod machine;
mod model;
mod network_run;
mod page;
pub mod parent;
pub mod parent_run;
pub mod probe;
mod sender;
pub mod settings;
mod spool;
pub mod sync;
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
use event::{Begun, Event};
use machine::Watch;
use parent::Above;
use sender::{Patience, Sender, Settled};
use settings::Server;
use spool::Spool;

/// Writes down what runs tell and, where there is a server, sends it.
pub struct Mlflow {
    /// The name of the experiment, where one is known.
    experiment: Option<String>,
    /// What models are registered as, instead of what their runs say.
    model: Option<String>,
    /// What runs lie below that are no sweep's trials.
    above: Option<Above>,
    sender: Option<Sender>,
    observer: Arc<dyn Observer>,
    /// Runs that have begun and not ended; the last one is told of.
    open: Arc<Mutex<Vec<Open>>>,
    /// While there are some.
    watch: Mutex<Option<Watch>>,
}

struct Open {
    folder: PathBuf,
    spool: Spool,
    key: String,
    /// How often this process has told it of the machine.
    samples: u64,
    /// The last attempt to write failed, which was said.
    is_failing: bool,
}

impl Mlflow {
    /// Without a `server` everything stays in the run folders, for `ctseg sync`. Runs go into `experiment`, and
    /// models are registered as `model`, where these are named.
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
                Some(Sender::begin(link, Arc::clone(observer)))
            }
            None => None,
        };
        Ok(Self {
            experiment,
            model,
            above: None,
            sender,
            observer: Arc::clone(observer),
            open: Arc::default(),
            watch: Mutex::default(),
        })
    }

    /// The same with runs that lie below another one.
    pub fn below(self, above: Option<Above>) -> Self {
        Self { above, ..self }
    }

    fn open(&self) -> MutexGuard<'_, Vec<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to sample the machine for the run that goes on, or ends it where none does.
    fn watch(&self, is_wanted: bool) {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_wanted {
            *watch = None;
        } else if watch.is_none() {
            let open = Arc::clone(&self.open);
            *watch = Some(Watch::begin(move |values| told_of_machine(&open, values)));
        }
    }

    /// Tells the spool of the run that began last. What cannot be written is said once.
    fn tell(&self, what: impl FnOnce(&Path, &mut Spool) -> Result<()>) -> Result<()> {
        let mut open = self.open();
        let Some(run) = open.last_mut() else {
            return Ok(());
        };
        let told = what(&run.folder, &mut run.spool);
        let was_failing = std::mem::replace(&mut run.is_failing, told.is_err());
        told.or_else(|error| if was_failing { Ok(()) } else { Err(error) })
    }

    fn model_event(&self, folder: &Path, made: &tracker::ModelMade) -> Event {
        Event::Model {
            bundle: relative(folder, &made.bundle),
            sha256: made.sha256.clone(),
            name: self.model.clone().unwrap_or_else(|| made.name.clone()),
            structures: made.structures.clone(),
            spacing_mm: made.spacing_mm.clone(),
        }
    }

    /// Waits a little for what is under way, and says what is left.
    fn settle(&self, sender: &Sender, run: &RunIdentity, outcome: &Outcome) {
        let patience = match outcome {
            Outcome::Interrupted => Patience::IN_A_HURRY,
            _ => Patience::default(),
        };
        // What was in the way has been said.
        if sender.settled(patience) == Settled::Partly {
            self.observer.warn(&format!(
                "MLflow has not everything of this run yet; 'ctseg sync {}' sends the rest",
                run.folder.display()
            ));
        }
    }
}

impl Tracker for Mlflow {
    fn begun(&self, run: &RunIdentity) -> Result<()> {
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
        spool.begun(Begun {
            key: key.clone(),
            name,
            run: run.name.to_owned(),
            parent: parent.map(|parent| parent.key.clone()),
            above: match run.parent {
                Some(_) => None,
                None => self.above.clone(),
            },
            networks: recipe.map_or(1, |recipe| recipe.trained_folds().len()),
            experiment: self.experiment.clone(),
            user: settings::process_environment("USER")
                .or_else(|| settings::process_environment("LOGNAME")),
            process: ProcessId::own().to_string(),
        })?;
        open.push(Open {
            folder: run.folder.to_path_buf(),
            spool,
            key,
            samples: 0,
            is_failing: false,
        });
        drop(open);
        self.watch(true);
        if let Some(sender) = &self.sender {
            sender.add(run.folder);
        }
        Ok(())
    }

    fn epoch(&self, record: &EpochRecord) -> Result<()> {
        let point = Point {
            step: record.progress.epoch as u64,
            time_ms: spool::now(),
            values: metric_names::points(record),
        };
        self.tell(|_, spool| {
            spool.metrics(Some(record.network), &[point], record.broken_off)?;
            spool.sync()
        })
    }

    fn happened(&self, event: &tracker::Event) -> Result<()> {
        self.tell(|folder, spool| match event {
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

    fn ended(&self, run: &RunIdentity, outcome: &Outcome) -> Result<()> {
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
            self.watch(false);
        }
        if let Some(sender) = &self.sender {
            sender.ended(run.folder);
            if is_last {
                self.settle(sender, run, outcome);
            }
        }
        ended
    }
}

/// What cannot be written is said where the run itself tells something.
fn told_of_machine(open: &Mutex<Vec<Open>>, values: Vec<(String, f64)>) {
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

/// `path` as seen from the run folder, so that it is found where both are moved together; as it is where they have
/// nothing in common.
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
    fn paths_are_as_seen_from_the_run() {
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
