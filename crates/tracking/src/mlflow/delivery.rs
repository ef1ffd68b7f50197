//! One run's events on their way to one server. Numbers do not wait for files: each have their own place in the
//! events up to which the server has them. A place moves on when the server has answered, so that what went
//! unanswered is sent again, and that has no effect where it had arrived: points with the same time, step and value
//! are one to MLflow's databases, parameters, tags, files and datasets replace themselves, and runs, models and
//! their versions are looked for by their keys before they are made.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::api::{Api, KnownRun, NewRun};
use super::artifacts::Parts;
use super::batch::{Batch, Item};
use super::cursor::{Delivered, Lock, Standing};
use super::error::Fault;
use super::event::{Begun, Event, Line, Status};
use super::event_reader::{Lines, beginning, path_in};
use super::experiment::{Experiments, restored_on};
use super::http::Http;
use super::page::Portion;
use super::settings::Server;
use ctseg_base::Result;

/// This many metrics are read at once, at most, but for those of one line.
const METRICS_AT_ONCE: usize = 1000;
/// And so many bytes of events.
const BYTES_AT_ONCE: u64 = 1 << 20;

/// So many things that went wrong are kept in words.
const NOTES: usize = 10;

/// A server that events go to.
pub struct Link {
    pub server: Server,
    pub(super) http: Http,
    pub(super) parts: Parts,
    pub(super) experiments: Experiments,
}

/// What was sent, and what could not be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sent {
    pub metrics: usize,
    pub files: usize,
    pub bytes: u64,
    /// Items that the server does not want, and files that are gone.
    pub left_out: usize,
    /// The first of these, and what else is worth knowing, a line each.
    pub notes: Vec<String>,
}

/// Sends what a run has told.
pub struct Delivery {
    pub(super) link: Arc<Link>,
    pub(super) run: PathBuf,
    pub(super) begun: Begun,
    pub(super) begun_at: i64,
    pub(super) standing: Standing,
    pub(super) artifact_uri: Option<String>,
    /// Why files wait, although the server is there.
    pub(super) held: Option<String>,
    pub sent: Sent,
    _lock: Lock,
}

/// Whether a run can be sent.
pub enum Opened {
    Ready(Box<Delivery>),
    /// Another process sends it.
    Busy,
    /// It has told nothing.
    Empty,
}

impl Link {
    /// # Errors
    /// See `Http::open`.
    pub fn open(server: Server) -> Result<Self> {
        let http = Http::open(&server)?;
        let parts = Parts::default();
        Ok(Self {
            server,
            http,
            parts,
            experiments: Experiments::default(),
        })
    }

    /// With files cut otherwise.
    pub fn with_parts(self, parts: Parts) -> Self {
        Self { parts, ..self }
    }
}

impl Sent {
    pub(super) fn note(&mut self, line: String) {
        self.left_out += 1;
        self.remark(line);
    }

    /// Of something that costs nothing.
    pub(super) fn remark(&mut self, line: String) {
        if self.notes.len() < NOTES && !self.notes.contains(&line) {
            self.notes.push(line);
        }
    }
}

impl Delivery {
    /// # Errors
    /// Files of the run that cannot be read or written.
    pub fn open(link: &Arc<Link>, run: &Path) -> Result<Opened> {
        if !path_in(run).exists() {
            return Ok(Opened::Empty);
        }
        let Some(lock) = Lock::take(run)? else {
            return Ok(Opened::Busy);
        };
        let Some((begun_at, begun)) = beginning(run)? else {
            return Ok(Opened::Empty);
        };
        Ok(Opened::Ready(Box::new(Self {
            link: Arc::clone(link),
            run: run.to_path_buf(),
            begun,
            begun_at,
            standing: Delivered::read(run, &link.server.uri),
            artifact_uri: None,
            held: None,
            sent: Sent::default(),
            _lock: lock,
        })))
    }

    /// Sends a portion; false where nothing was left to be sent.
    pub fn step(&mut self) -> Result<bool, Fault> {
        self.ensure_run()?;
        Ok(self.numbers_sent()? || self.file_sent()?)
    }

    /// Where the server shows the run.
    pub fn page(&self) -> String {
        let Standing {
            experiment_id,
            run_id,
            ..
        } = &self.standing;
        let server = &self.link.server.uri;
        format!("{server}/#/experiments/{experiment_id}/runs/{run_id}")
    }

    /// The run is on the server.
    pub fn is_known(&self) -> bool {
        !self.standing.run_id.is_empty()
    }

    /// Tells the server that the run's process is gone, at `at` (milliseconds since 1970), without having said so.
    pub fn close(&mut self, at: i64) -> Result<(), Fault> {
        if !self.standing.is_closed {
            self.set_status(Status::Killed, at)?;
            self.standing.is_closed = true;
            self.save()?;
        }
        Ok(())
    }

    pub(super) fn api(link: &Link) -> Api<'_> {
        Api { http: &link.http }
    }

    pub(super) fn save(&self) -> Result<()> {
        Delivered::write(&self.run, &self.link.server.uri, &self.standing)
    }

    fn ensure_run(&mut self) -> Result<(), Fault> {
        if self.is_known() {
            return Ok(());
        }
        let link = Arc::clone(&self.link);
        let api = Self::api(&link);
        let named = self.begun.experiment.as_ref();
        let name = named.unwrap_or(&link.server.experiment).clone();
        let found = link.experiments.usable(&api, &link.server.uri, &name)?;
        if found.is_restored {
            self.sent.remark(restored_on(&link.server.uri, &name));
        }
        let experiment = found.id;
        let parent = self.found_above(&api, &experiment)?;
        let begun = &self.begun;
        let made = NewRun {
            experiment: &experiment,
            key: &begun.key,
            name: &begun.name,
            parent: parent.as_deref(),
            user: begun.user.as_deref(),
            begun: self.begun_at,
            tags: &[("ctseg.run", &begun.run)],
        };
        let run = found_or_made(&api, &made)?;
        self.standing.experiment = name;
        self.standing.experiment_id = experiment;
        self.standing.run_id = run.id;
        self.artifact_uri = Some(run.artifact_uri);
        Ok(self.save()?)
    }

    fn numbers_sent(&mut self) -> Result<bool, Fault> {
        let from = self.standing.numbers;
        let mut lines = Lines::open(&self.run, from)?;
        let networks: Vec<String> = self.standing.networks.keys().cloned().collect();
        let (mut portion, mut end, mut alone) = (Portion::default(), from, None);
        while let Some(placed) = lines.next()? {
            let line = placed.line.filter(|line| !line.event.is_file());
            if let Some(line) = line.and_then(|line| portion.take(line, &networks)) {
                if portion.batches.is_empty() {
                    end = placed.end;
                    alone = Some(line);
                }
                break;
            }
            end = placed.end;
            if portion.metrics >= METRICS_AT_ONCE || end - from > BYTES_AT_ONCE {
                break;
            }
        }
        if end == from {
            return Ok(false);
        }
        for (network, batches) in portion.batches {
            let run = self.target(network.as_deref())?;
            for batch in batches {
                self.log(&run, batch)?;
            }
        }
        if let Some(line) = alone {
            self.alone(&line)?;
        }
        self.standing.numbers = end;
        self.save()?;
        Ok(true)
    }

    /// Logs what the server takes of a batch.
    pub(super) fn log(&mut self, run: &str, batch: Batch) -> Result<(), Fault> {
        let refusal = match Self::api(&self.link).log(run, &batch) {
            Ok(()) => {
                self.sent.metrics += batch.metrics();
                return Ok(());
            }
            Err(Fault::Refused(refusal)) => refusal,
            Err(fault) => return Err(fault),
        };
        if self.is_restored(run)? {
            return self.log(run, batch);
        }
        match batch.parted() {
            Ok((first, second)) => {
                self.log(run, first)?;
                self.log(run, second)
            }
            Err(item) => {
                let item = item.as_ref().map_or("", Item::name).to_owned();
                self.sent.note(format!("'{item}': {}", refusal.message));
                Ok(())
            }
        }
    }

    fn alone(&mut self, line: &Line) -> Result<(), Fault> {
        match &line.event {
            Event::Begun(_) => {
                self.standing.is_closed = false;
                self.set_status(Status::Running, line.at)
            }
            Event::Ended { status, reason } => {
                if let Some(reason) = reason {
                    let mut batch = Batch::default();
                    let _ = batch.push(Item::tag("ctseg.failure", reason));
                    let run = self.standing.run_id.clone();
                    self.log(&run, batch)?;
                }
                self.group_ended(line.at)?;
                self.set_status(*status, line.at)
            }
            Event::Dataset {
                name,
                digest,
                source,
                context,
                cases,
            } => {
                // Longer ones are refused.
                let digest: String = digest.chars().take(36).collect();
                let dataset = json!({
                    "name": name.chars().take(500).collect::<String>(),
                    "digest": digest,
                    "source_type": "local",
                    "source": json!({"uri": source}).to_string(),
                    "profile": json!({"cases": cases}).to_string(),
                });
                let link = Arc::clone(&self.link);
                let api = Self::api(&link);
                let run = self.standing.run_id.clone();
                match api.log_dataset(&run, &dataset, context) {
                    Err(Fault::Refused(refusal)) => {
                        if self.is_restored(&run)? {
                            return self.alone(line);
                        }
                        self.sent
                            .note(format!("dataset '{name}': {}", refusal.message));
                        Ok(())
                    }
                    other => other,
                }
            }
            _ => Ok(()),
        }
    }

    fn set_status(&mut self, status: Status, at: i64) -> Result<(), Fault> {
        let link = Arc::clone(&self.link);
        let api = Self::api(&link);
        let networks = self.standing.networks.values();
        let runs: Vec<String> = networks.chain([&self.standing.run_id]).cloned().collect();
        for run in &runs {
            match api.set_status(run, status, at) {
                Err(Fault::Refused(_)) if self.is_restored(run)? => {
                    api.set_status(run, status, at)?;
                }
                Err(Fault::Refused(_)) => {}
                other => other?,
            }
        }
        Ok(())
    }
}

/// The run with this key, unless it was deleted.
pub(super) fn found_or_made(api: &Api, run: &NewRun) -> Result<KnownRun, Fault> {
    let known = api.run_of(run.experiment, run.key)?;
    match known.filter(|known| !known.is_deleted) {
        Some(known) => Ok(known),
        None => api.create_run(run),
    }
}
