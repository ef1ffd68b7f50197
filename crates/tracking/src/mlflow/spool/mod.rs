//! `tracking/events.jsonl` in a run folder: everything that a tracking server is told of the run, appended as it
//! happens and kept. It is whole without any server, and what is sent is read from it.
//!
//! A step of a metric is told once: one that is told again after a kill is the same again on the same machine, and
//! the first stays. An epoch that time broke off is the exception: done to its end by a later process it is told
//! again, and then its step has both values, the later one last.
//!
//! What could not be written to the end of its line, as on a full disk, does not count as told. A line that was begun
//! stays torn, which readers leave out, and the next one begins on a line of its own. Nothing is cut back: readers count
//! bytes.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use super::event::{Begun, Event, Line, Number};
use super::event_reader::{FOLDER, Lines, path_in};
use ctseg_base::atomic_file::create_folder;
use ctseg_base::process::id::ProcessId;
use ctseg_base::{Error, Result, regular_file};
use ctseg_core::run::tracker::Point;

/// Values of a line at most, so that a line is small beside what is sent at once.
const VALUES_PER_LINE: usize = 100;

/// Ends a line that was begun. It makes none of one that misses only its end: that was not told, and is told again.
const TORN: &str = " torn\n";

/// Metrics that tell of the machine. Each process counts their steps from 0 on.
const OF_THE_MACHINE: &str = "system/";

/// Appends to a run's events. What it holds in memory is bounded by how many names there are, not by events.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    file: File,
    told: Told,
    /// Its last line was begun and not written to its end.
    is_torn: bool,
    /// Where the steps of this process's machine metrics begin.
    machine_steps: u64,
}

/// What is known of the lines that are there.
#[derive(Debug, Default)]
struct Told {
    key: Option<String>,
    /// The last step of each metric of each network.
    steps: BTreeMap<(Option<String>, String), u64>,
    parameters: BTreeMap<String, String>,
}

impl Spool {
    /// The spool of the run in folder `run`, new or gone on with.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn open(run: &Path) -> Result<Self> {
        let path = path_in(run);
        let folder = run.join(FOLDER);
        create_folder(&folder)?;
        let mut told = Told::default();
        if path.exists() {
            let mut lines = Lines::open(run, 0)?;
            while let Some(line) = lines.next()? {
                line.line.iter().for_each(|line| told.take_in(&line.event));
            }
        }
        let mut file = regular_file::append_to(&path).map_err(Error::io(&path, "append to"))?;
        let is_torn = ends_torn(&mut file).map_err(Error::io(&path, "read"))?;
        let of_the_machine = told
            .steps
            .iter()
            .filter(|((_, name), _)| name.starts_with(OF_THE_MACHINE));
        let machine_steps = of_the_machine.map(|(_, step)| step + 1).max().unwrap_or(0);
        Ok(Self {
            path,
            file,
            told,
            is_torn,
            machine_steps,
        })
    }

    /// The key that the run has had from its beginning.
    pub fn key(&mut self) -> String {
        let path = &self.path;
        let key = self.told.key.get_or_insert_with(|| fresh_key(path));
        key.clone()
    }

    pub fn begun(&mut self, begun: Begun) -> Result<()> {
        self.append(Event::Begun(begun))
    }

    /// Metrics; those of steps that were told before are left out. `again` says that these will be told once more.
    pub fn metrics(&mut self, network: Option<&str>, points: &[Point], again: bool) -> Result<()> {
        let mut lines = Vec::new();
        let mut own: BTreeMap<String, u64> = BTreeMap::new();
        for point in points {
            let mut fresh: BTreeMap<u64, BTreeMap<String, Number>> = BTreeMap::new();
            for (name, value) in &point.values {
                let step = match name.starts_with(OF_THE_MACHINE) {
                    true => self.machine_steps + point.step,
                    false => point.step,
                };
                let last = own.get(name).copied();
                if last.max(self.told.last_step(network, name)) < Some(step) {
                    if !again {
                        own.insert(name.clone(), step);
                    }
                    let values = fresh.entry(step).or_default();
                    values.insert(name.clone(), Number(*value));
                }
            }
            for (step, values) in fresh {
                lines.extend(in_parts(values).into_iter().map(|values| Line {
                    at: point.time_ms,
                    event: Event::Metrics {
                        network: network.map(str::to_owned),
                        step,
                        again,
                        values,
                    },
                }));
            }
        }
        self.write(&lines)
    }

    /// Parameters; one that has another value than before becomes a tag, as servers keep the first.
    pub fn parameters(&mut self, values: &[(String, String)]) -> Result<()> {
        let mut fresh = BTreeMap::new();
        let mut changed = Vec::new();
        for (name, value) in values {
            match self.told.parameters.get(name) {
                None => {
                    fresh.insert(name.clone(), value.clone());
                }
                Some(before) if before != value => {
                    changed.push((format!("changed.{name}"), value.clone()));
                }
                Some(_) => {}
            }
        }
        for values in in_parts(fresh) {
            self.append(Event::Parameters { values })?;
        }
        self.tags(&changed)
    }

    pub fn tags(&mut self, values: &[(String, String)]) -> Result<()> {
        for values in in_parts(values.iter().cloned().collect()) {
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
        // One write of whole lines: a kill leaves whole lines.
        let (written, ended) = appended(&mut self.file, text.as_bytes());
        let whole = ends.iter().take_while(|end| **end <= written).count();
        for line in &lines[..whole] {
            self.told.take_in(&line.event);
        }
        if let Some(last) = text.as_bytes()[..written].last() {
            self.is_torn = *last != b'\n';
        }
        ended.map_err(Error::io(&self.path, "append to"))
    }

    /// Everything told so far survives a power cut.
    pub fn sync(&self) -> Result<()> {
        let synced = self.file.sync_data();
        synced.map_err(Error::io(&self.path, "sync"))
    }

    /// How many names it holds in memory.
    #[cfg(test)]
    pub fn names_held(&self) -> usize {
        self.told.steps.len() + self.told.parameters.len()
    }
}

impl Told {
    /// The last step that was told of a metric.
    fn last_step(&self, network: Option<&str>, name: &str) -> Option<u64> {
        let place = (network.map(str::to_owned), name.to_owned());
        self.steps.get(&place).copied()
    }

    fn take_in(&mut self, event: &Event) {
        match event {
            Event::Begun(begun) if self.key.is_none() => self.key = Some(begun.key.clone()),
            Event::Metrics {
                network,
                step,
                again: false,
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

fn fresh_key(path: &Path) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default().as_nanos();
    let text = format!("{} {now} {}", ProcessId::own(), path.display());
    format!("{:x}", Sha256::digest(text))[..32].to_owned()
}

fn in_parts<V>(values: BTreeMap<String, V>) -> Vec<BTreeMap<String, V>> {
    let mut parts = Vec::new();
    let mut values = values.into_iter().peekable();
    while values.peek().is_some() {
        parts.push(values.by_ref().take(VALUES_PER_LINE).collect());
    }
    parts
}

/// Writes `bytes` as far as that goes: how many were written, and what ended it.
fn appended(to: &mut impl Write, bytes: &[u8]) -> (usize, std::io::Result<()>) {
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
