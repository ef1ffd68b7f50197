//! Read-only view of a claims folder, for monitoring.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{Mark, key};
use crate::CaseState;
use ctseg_base::process::id::ProcessId;
use ctseg_base::process::owner::{LastHeartbeat, Liveness, Worker};
use ctseg_base::text::file::read_text;
use ctseg_base::{Error, Result, regular_file};

/// A process of the folder that has not ended regularly.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its name in the claims folder.
    pub process: String,
    /// Not recorded by early versions.
    pub worker: Option<Worker>,
    pub alive: Liveness,
    pub last_heartbeat: SystemTime,
}

/// A case that a process has claimed.
#[derive(Debug, Clone, Copy)]
pub struct Held<'a> {
    pub by: &'a Member,
    /// When it was claimed.
    pub since: SystemTime,
}

/// The content of a claims folder.
pub struct Survey {
    members: BTreeMap<String, Member>,
    /// The last claim of each case: number, process, creation time.
    claims: BTreeMap<String, (u32, String, SystemTime)>,
    marks: BTreeMap<String, (CaseState, String)>,
}

impl Survey {
    /// Reads the folder at the time `now`: marks with the same `settings`, and processes, which count as dead if
    /// their last heartbeat is more than `expiry` ago or in the future. File times are compared with this machine's
    /// clock.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn read(folder: &Path, settings: &str, expiry: Duration, now: SystemTime) -> Result<Self> {
        let mut survey = Self {
            members: BTreeMap::new(),
            claims: BTreeMap::new(),
            marks: BTreeMap::new(),
        };
        let entries = fs::read_dir(folder).map_err(Error::io(folder, "read the folder"))?;
        for entry in entries {
            let entry = entry.map_err(Error::io(folder, "read the folder"))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let path = entry.path();
            if let Some(process) = name.strip_prefix("process-") {
                survey.take_member(process, &path, expiry, now);
            } else if let Some(key) = name.strip_suffix(".json") {
                survey.take_mark(key, &path, settings);
            } else if let Some((key, number)) = name.rsplit_once(".claim-") {
                survey.take_claim(key, number, &path);
            }
        }
        Ok(survey)
    }

    // Files that are removed or half-written while they are read are ignored.

    fn take_member(&mut self, process: &str, path: &Path, expiry: Duration, now: SystemTime) {
        let Ok(metadata) = fs::metadata(path) else {
            return;
        };
        let last_heartbeat = metadata.modified().unwrap_or(now);
        let id = process.rsplit_once('.');
        let id = id.and_then(|(id, _)| ProcessId::parse(id));
        let worker = regular_file::read(path).ok();
        let member = Member {
            process: process.to_owned(),
            worker: worker.and_then(|text| serde_json::from_slice(&text).ok()),
            alive: Liveness::of(
                id.as_ref(),
                metadata.uid(),
                LastHeartbeat {
                    at: last_heartbeat,
                    now,
                },
                expiry,
            ),
            last_heartbeat,
        };
        self.members.insert(process.to_owned(), member);
    }

    fn take_mark(&mut self, key: &str, path: &Path, settings: &str) {
        let text = regular_file::read(path).ok();
        let mark = text.and_then(|text| serde_json::from_slice::<Mark>(&text).ok());
        if let Some(mark) = mark.filter(|mark| mark.settings == settings) {
            self.marks
                .insert(key.to_owned(), (mark.state, mark.process));
        }
    }

    fn take_claim(&mut self, key: &str, number: &str, path: &Path) {
        let Ok(number) = number.parse::<u32>() else {
            return;
        };
        if self
            .claims
            .get(key)
            .is_some_and(|(last, ..)| *last > number)
        {
            return;
        }
        let made = fs::metadata(path).and_then(|metadata| metadata.modified());
        if let (Ok(text), Ok(made)) = (read_text(path), made) {
            let process = text.lines().next().unwrap_or_default().to_owned();
            self.claims.insert(key.to_owned(), (number, process, made));
        }
    }

    /// The outcome of the case whose label map has this name ([`super::output_name`]). Failures of processes that
    /// have ended do not count: the next process tries again.
    pub fn settled(&self, name: &str) -> Option<&CaseState> {
        let (state, process) = self.marks.get(&key(name))?;
        let is_alive = self.alive(process).is_some();
        (is_alive || !matches!(state, CaseState::Failed { .. })).then_some(state)
    }

    /// The process that works on that case.
    pub fn held(&self, name: &str) -> Option<Held<'_>> {
        let (_, process, since) = self.claims.get(&key(name))?;
        Some(Held {
            by: self.alive(process)?,
            since: *since,
        })
    }

    /// All processes, including dead ones.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    fn alive(&self, process: &str) -> Option<&Member> {
        let member = self.members.get(process)?;
        (member.alive == Liveness::Alive).then_some(member)
    }
}
