//! `tracking/events.jsonl` in a run folder: everything that a tracking server receives of the run, appended as it
//! happens and kept. It is complete without any server; uploads read from it.
//!
//! Each step of a metric is recorded once: a step repeated after a kill has the same value on the same machine, and the
//! first is kept. The exception is an epoch that the time limit interrupted: a resumed run finishes and records it
//! again, so that its step has both values, the later one last.
//!
//! An event that was not written to the end of its line, as on a full disk, does not count as recorded. Its line stays
//! torn, which readers skip, and the next event starts a new line. The file is never truncated: readers count bytes.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use super::event::{Event, Line, Number, RunStart};
use super::event_reader::{FOLDER, Lines, path_in};
use ctseg_base::atomic_file::create_folder;
use ctseg_base::process::id::ProcessId;
use ctseg_base::{Error, Result, regular_file};
use ctseg_core::run::tracker::Point;

/// Most values per line, so that a line is small compared with a portion.
const VALUES_PER_LINE: usize = 100;

/// Ends a torn line. The line stays invalid even if only its line break was missing: its event is recorded again.
const TORN: &str = " torn\n";

/// Prefix of system metrics. Each process counts their steps from 0.
const SYSTEM_METRICS: &str = "system/";

/// Appends to a run's events. Its memory is bounded by the number of names, not of events.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    file: File,
    recorded: Recorded,
    /// The last line is incomplete.
    is_torn: bool,
    /// First step of this process's system metrics.
    system_step_offset: u64,
}

/// What the event file contains.
#[derive(Debug, Default)]
struct Recorded {
    key: Option<String>,
    /// The last step of each metric of each network.
    steps: BTreeMap<(Option<String>, String), u64>,
    parameters: BTreeMap<String, String>,
}

impl Spool {
    /// Opens or creates the event file of the run in folder `run`.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn open(run: &Path) -> Result<Self> {
        let path = path_in(run);
        let folder = run.join(FOLDER);
        create_folder(&folder)?;
        let mut recorded = Recorded::default();
        if path.exists() {
            let mut lines = Lines::open(run, 0)?;
            while let Some(line) = lines.next()? {
                line.line
                    .iter()
                    .for_each(|line| recorded.record(&line.event));
            }
        }
        let mut file = regular_file::append_to(&path).map_err(Error::io(&path, "append to"))?;
        let is_torn = ends_torn(&mut file).map_err(Error::io(&path, "read"))?;
        let system_metrics = recorded
            .steps
            .iter()
            .filter(|((_, name), _)| name.starts_with(SYSTEM_METRICS));
        let system_step_offset = system_metrics.map(|(_, step)| step + 1).max().unwrap_or(0);
        Ok(Self {
            path,
            file,
            recorded,
            is_torn,
            system_step_offset,
        })
    }

    /// The key of the run.
    pub fn key(&mut self) -> String {
        let path = &self.path;
        let key = self.recorded.key.get_or_insert_with(|| new_key(path));
        key.clone()
    }

    pub fn start_run(&mut self, start: RunStart) -> Result<()> {
        self.append(Event::Started(start))
    }

    /// Records metrics, except for steps that are recorded already. With `is_partial` these steps may be recorded
    /// again.
    pub fn metrics(
        &mut self,
        network: Option<&str>,
        points: &[Point],
        is_partial: bool,
    ) -> Result<()> {
        let mut lines = Vec::new();
        let mut own: BTreeMap<String, u64> = BTreeMap::new();
        for point in points {
            let mut fresh: BTreeMap<u64, BTreeMap<String, Number>> = BTreeMap::new();
            for (name, value) in &point.values {
                let step = match name.starts_with(SYSTEM_METRICS) {
                    true => self.system_step_offset + point.step,
                    false => point.step,
                };
                let last = own.get(name).copied();
                if last.max(self.recorded.last_step(network, name)) < Some(step) {
                    if !is_partial {
                        own.insert(name.clone(), step);
                    }
                    let values = fresh.entry(step).or_default();
                    values.insert(name.clone(), Number(*value));
                }
            }
            for (step, values) in fresh {
                lines.extend(chunks(values).into_iter().map(|values| Line {
                    at: point.time_ms,
                    event: Event::Metrics {
                        network: network.map(str::to_owned),
                        step,
                        is_partial,
                        values,
                    },
                }));
            }
        }
        self.write(&lines)
    }

    /// Records parameters. A changed value becomes a tag, since servers keep the first.
    pub fn parameters(&mut self, values: &[(String, String)]) -> Result<()> {
        let mut fresh = BTreeMap::new();
        let mut changed = Vec::new();
        for (name, value) in values {
            match self.recorded.parameters.get(name) {
                None => {
                    fresh.insert(name.clone(), value.clone());
                }
                Some(before) if before != value => {
                    changed.push((format!("changed.{name}"), value.clone()));
                }
                Some(_) => {}
            }
        }
        for values in chunks(fresh) {
            self.append(Event::Parameters { values })?;
        }
        self.tags(&changed)
    }

    pub fn tags(&mut self, values: &[(String, String)]) -> Result<()> {
        for values in chunks(values.iter().cloned().collect()) {
            self.append(Event::Tags { values })?;
        }
        Ok(())
    }

    pub fn append(&mut self, event: Event) -> Result<()> {
        self.write(&[Line { at: now(), event }])
    }

    fn write(&mut self, lines: &[Line]) -> Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let mut text = String::new();
        if self.is_torn {
            text += TORN;
        }
        let mut ends = Vec::new();
        for line in lines {
            text += &serde_json::to_string(line).map_err(|error| {
                Error::file(&self.path, format!("cannot write an event: {error}"))
            })?;
            text.push('\n');
            ends.push(text.len());
        }
        // One write of complete lines: a kill leaves complete lines.
        let (written, ended) = write_counted(&mut self.file, text.as_bytes());
        let complete = ends.iter().take_while(|end| **end <= written).count();
        for line in &lines[..complete] {
            self.recorded.record(&line.event);
        }
        if let Some(last) = text.as_bytes()[..written].last() {
            self.is_torn = *last != b'\n';
        }
        ended.map_err(Error::io(&self.path, "append to"))
    }

    /// Syncs the file, so that it survives a power cut.
    pub fn sync(&self) -> Result<()> {
        let synced = self.file.sync_data();
        synced.map_err(Error::io(&self.path, "sync"))
    }

    /// Number of names in memory.
    #[cfg(test)]
    pub fn names_held(&self) -> usize {
        self.recorded.steps.len() + self.recorded.parameters.len()
    }
}

impl Recorded {
    /// The last recorded step of a metric.
    fn last_step(&self, network: Option<&str>, name: &str) -> Option<u64> {
        let metric = (network.map(str::to_owned), name.to_owned());
        self.steps.get(&metric).copied()
    }

    fn record(&mut self, event: &Event) {
        match event {
            Event::Started(start) if self.key.is_none() => self.key = Some(start.key.clone()),
            Event::Metrics {
                network,
                step,
                is_partial: false,
                values,
            } => {
                for name in values.keys() {
                    let last = self.steps.entry((network.clone(), name.clone()));
                    let last = last.or_insert(*step);
                    *last = (*last).max(*step);
                }
            }
            Event::Parameters { values } => self.parameters.extend(values.clone()),
            _ => {}
        }
    }
}

/// Milliseconds since 1970.
pub fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_millis() as i64)
}

fn new_key(path: &Path) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default().as_nanos();
    let text = format!("{} {now} {}", ProcessId::current(), path.display());
    format!("{:x}", Sha256::digest(text))[..32].to_owned()
}

fn chunks<V>(values: BTreeMap<String, V>) -> Vec<BTreeMap<String, V>> {
    let mut parts = Vec::new();
    let mut values = values.into_iter().peekable();
    while values.peek().is_some() {
        parts.push(values.by_ref().take(VALUES_PER_LINE).collect());
    }
    parts
}

/// Writes `bytes`; returns how many were written, and the result.
fn write_counted(to: &mut impl Write, bytes: &[u8]) -> (usize, std::io::Result<()>) {
    let mut count = 0;
    while count < bytes.len() {
        match to.write(&bytes[count..]) {
            Ok(0) => return (count, Err(ErrorKind::WriteZero.into())),
            Ok(more) => count += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return (count, Err(error)),
        }
    }
    (count, Ok(()))
}

fn ends_torn(file: &mut File) -> std::io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last[0] != b'\n')
}
