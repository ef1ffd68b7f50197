//! Uploads one run's events to one server. Metrics do not wait for files: each have their own cursor in the event file.
//! A cursor advances once the server has answered, so unanswered requests are repeated. Repeating is idempotent: MLflow
//! stores points with the same time, step and value once; parameters, tags, files and datasets replace themselves;
//! runs, models and versions are looked up by their keys before they are created.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::api::{Api, NewRun, RunInfo};
use super::artifacts::Multipart;
use super::batch::{Batch, Item};
use super::cursor::{Cursor, Delivered, Lock};
use super::error::Fault;
use super::event::{Event, Line, RunStart, Status};
use super::event_reader::{Lines, path_in, run_start};
use super::experiment::{Experiments, restored_note};
use super::http::Http;
use super::portion::Portion;
use super::settings::Server;
use ctseg_base::Result;

/// Most metrics per portion, apart from those of one line.
const MAX_METRICS: usize = 1000;
/// Most bytes of events per portion.
const MAX_BYTES: u64 = 1 << 20;

/// Most notes kept.
const MAX_NOTES: usize = 10;

/// A connection to a server.
pub struct Link {
    pub server: Server,
    pub(super) http: Http,
    pub(super) parts: Multipart,
    pub(super) experiments: Experiments,
}

/// What was uploaded, and what could not be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sent {
    pub metrics: usize,
    pub files: usize,
    pub bytes: u64,
    /// Items that the server refused, and missing files.
    pub left_out: usize,
    /// The first of these, and other remarks, one line each.
    pub notes: Vec<String>,
}

/// The upload of one run to one server.
pub struct Delivery {
    pub(super) link: Arc<Link>,
    pub(super) run: PathBuf,
    pub(super) start: RunStart,
    pub(super) started_at: i64,
    pub(super) cursor: Cursor,
    pub(super) artifact_uri: Option<String>,
    /// Why artifacts wait although the server is available.
    pub(super) blocked: Option<String>,
    pub sent: Sent,
    _lock: Lock,
}

/// Whether a run can be uploaded.
pub enum Opened {
    Ready(Box<Delivery>),
    /// Another process uploads it.
    Busy,
    /// It has no events.
    Empty,
}

impl Link {
    /// # Errors
    /// See `Http::open`.
    pub fn open(server: Server) -> Result<Self> {
        let http = Http::open(&server)?;
        let parts = Multipart::default();
        Ok(Self {
            server,
            http,
            parts,
            experiments: Experiments::default(),
        })
    }

    /// Sets how large files are split.
    pub fn with_multipart(self, parts: Multipart) -> Self {
        Self { parts, ..self }
    }
}

impl Sent {
    /// Records an item that was not uploaded.
    pub(super) fn skip(&mut self, line: String) {
        self.left_out += 1;
        self.note(line);
    }

    /// Adds a remark.
    pub(super) fn note(&mut self, line: String) {
        if self.notes.len() < MAX_NOTES {
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
        let Some((started_at, start)) = run_start(run)? else {
            return Ok(Opened::Empty);
        };
        Ok(Opened::Ready(Box::new(Self {
            link: Arc::clone(link),
            run: run.to_path_buf(),
            start,
            started_at,
            cursor: Delivered::read(run, &link.server.uri),
            artifact_uri: None,
            blocked: None,
            sent: Sent::default(),
            _lock: lock,
        })))
    }

    /// Uploads the next portion. Returns false if nothing is pending.
    pub fn send_next(&mut self) -> Result<bool, Fault> {
        self.ensure_run()?;
        Ok(self.send_metrics()? || self.send_next_file()?)
    }

    /// The run's page on the server.
    pub fn url(&self) -> String {
        let Cursor {
            experiment_id,
            run_id,
            ..
        } = &self.cursor;
        let server = &self.link.server.uri;
        format!("{server}/#/experiments/{experiment_id}/runs/{run_id}")
    }

    /// Whether the run exists on the server.
    pub fn is_created(&self) -> bool {
        !self.cursor.run_id.is_empty()
    }

    /// Marks the run as KILLED at `at` (milliseconds since 1970), for a process that died.
    pub fn mark_killed(&mut self, at: i64) -> Result<(), Fault> {
        if !self.cursor.is_closed {
            self.set_status(Status::Killed, at)?;
            self.cursor.is_closed = true;
            self.save()?;
        }
        Ok(())
    }

    pub(super) fn api(link: &Link) -> Api<'_> {
        Api { http: &link.http }
    }

    pub(super) fn save(&self) -> Result<()> {
        Delivered::write(&self.run, &self.link.server.uri, &self.cursor)
    }

    fn ensure_run(&mut self) -> Result<(), Fault> {
        if self.is_created() {
            return Ok(());
        }
        let link = Arc::clone(&self.link);
        let api = Self::api(&link);
        let named = self.start.experiment.as_ref();
        let name = named.unwrap_or(&link.server.experiment).clone();
        let found = link
            .experiments
            .get_or_create(&api, &link.server.uri, &name)?;
        if found.is_restored {
            self.sent.note(restored_note(&link.server.uri, &name));
        }
        let experiment = found.id;
        let parent = self.find_parent(&api, &experiment)?;
        let start = &self.start;
        let new_run = NewRun {
            experiment: &experiment,
            key: &start.key,
            name: &start.name,
            parent: parent.as_deref(),
            user: start.user.as_deref(),
            start_time: self.started_at,
            tags: &[("ctseg.run", &start.run)],
        };
        let run = find_or_create_run(&api, &new_run)?;
        self.cursor.experiment = name;
        self.cursor.experiment_id = experiment;
        self.cursor.run_id = run.id;
        self.artifact_uri = Some(run.artifact_uri);
        Ok(self.save()?)
    }

    fn send_metrics(&mut self) -> Result<bool, Fault> {
        let from = self.cursor.numbers;
        let mut lines = Lines::open(&self.run, from)?;
        let networks: Vec<String> = self.cursor.networks.keys().cloned().collect();
        let (mut portion, mut end, mut alone) = (Portion::default(), from, None);
        while let Some(positioned) = lines.next()? {
            let line = positioned.line.filter(|line| !line.event.is_file());
            if let Some(line) = line.and_then(|line| portion.take(line, &networks)) {
                if portion.batches.is_empty() {
                    end = positioned.end;
                    alone = Some(line);
                }
                break;
            }
            end = positioned.end;
            if portion.metrics >= MAX_METRICS || end - from > MAX_BYTES {
                break;
            }
        }
        if end == from {
            return Ok(false);
        }
        for (network, batches) in portion.batches {
            let run = self.run_id_of(network.as_deref())?;
            for batch in batches {
                self.log(&run, batch)?;
            }
        }
        if let Some(line) = alone {
            self.send_single(&line)?;
        }
        self.cursor.numbers = end;
        self.save()?;
        Ok(true)
    }

    /// Logs a batch, split down to the items that the server refuses.
    pub(super) fn log(&mut self, run: &str, batch: Batch) -> Result<(), Fault> {
        let refusal = match Self::api(&self.link).log_batch(run, &batch) {
            Ok(()) => {
                self.sent.metrics += batch.metrics();
                return Ok(());
            }
            Err(Fault::Refused(refusal)) => refusal,
            Err(fault) => return Err(fault),
        };
        if self.restore_run(run)? {
            return self.log(run, batch);
        }
        match batch.split() {
            Ok((first, second)) => {
                self.log(run, first)?;
                self.log(run, second)
            }
            Err(item) => {
                let item = item.as_ref().map_or("", Item::name).to_owned();
                self.sent.skip(format!("'{item}': {}", refusal.message));
                Ok(())
            }
        }
    }

    fn send_single(&mut self, line: &Line) -> Result<(), Fault> {
        match &line.event {
            Event::Started(_) => {
                self.cursor.is_closed = false;
                self.set_status(Status::Running, line.at)
            }
            Event::Ended { status, reason } => {
                if let Some(reason) = reason {
                    let mut batch = Batch::default();
                    let _ = batch.push(Item::tag("ctseg.failure", reason));
                    let run = self.cursor.run_id.clone();
                    self.log(&run, batch)?;
                }
                self.end_group(line.at)?;
                self.set_status(*status, line.at)
            }
            Event::Dataset {
                name,
                digest,
                source,
                context,
                cases,
            } => {
                // The server refuses longer ones.
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
                let run = self.cursor.run_id.clone();
                match api.log_dataset(&run, &dataset, context) {
                    Err(Fault::Refused(refusal)) => {
                        if self.restore_run(&run)? {
                            return self.send_single(line);
                        }
                        self.sent
                            .skip(format!("dataset '{name}': {}", refusal.message));
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
        let networks = self.cursor.networks.values();
        let runs: Vec<String> = networks.chain([&self.cursor.run_id]).cloned().collect();
        for run in &runs {
            match api.set_status(run, status, at) {
                Err(Fault::Refused(_)) if self.restore_run(run)? => {
                    api.set_status(run, status, at)?;
                }
                Err(Fault::Refused(_)) => {}
                other => other?,
            }
        }
        Ok(())
    }
}

/// The run with this key, created if missing or deleted.
pub(super) fn find_or_create_run(api: &Api, run: &NewRun) -> Result<RunInfo, Fault> {
    let known = api.find_run(run.experiment, run.key)?;
    match known.filter(|known| !known.is_deleted) {
        Some(known) => Ok(known),
        None => api.create_run(run),
    }
}
