//! What a folder of claims says to somebody who takes no part and changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{Mark, key};
use crate::CaseState;
use ctseg_base::process::id::ProcessId;
use ctseg_base::process::owner::{Alive, Sign, Worker};
use ctseg_base::text::file::read_text;
use ctseg_base::{Error, Result, regular_file};

/// A process of the folder that has not ended in order.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its name in the folder.
    pub process: String,
    /// Those of early versions do not say.
    pub worker: Option<Worker>,
    pub alive: Alive,
    /// When it last gave a sign.
    pub sign: SystemTime,
}

/// A case that a process has taken.
#[derive(Debug, Clone, Copy)]
pub struct Held<'a> {
    pub by: &'a Member,
    /// When it was taken.
    pub since: SystemTime,
}

/// All that lies in the folder.
pub struct Survey {
    members: BTreeMap<String, Member>,
    /// The last claim of each case: number, process, when it was made.
    claims: BTreeMap<String, (u32, String, SystemTime)>,
    marks: BTreeMap<String, (CaseState, String)>,
}

impl Survey {
    /// Reads the folder at the time `now`: marks of cases made in the same `way`, and processes that are taken for
    /// dead after `expiry` without a sign, or whose last one lies further in the future. The times of files are compared
    /// with this machine's clock.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn read(folder: &Path, way: &str, expiry: Duration, now: SystemTime) -> Result<Self> {
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
                survey.take_mark(key, &path, way);
            } else if let Some((key, number)) = name.rsplit_once(".claim-") {
                survey.take_claim(key, number, &path);
            }
        }
        Ok(survey)
    }

    // What is gone or torn by the time that it is looked at says nothing.

    fn take_member(&mut self, process: &str, path: &Path, expiry: Duration, now: SystemTime) {
        let Ok(metadata) = fs::metadata(path) else {
            return;
        };
        let sign = metadata.modified().unwrap_or(now);
        let id = process.rsplit_once('.');
        let id = id.and_then(|(id, _)| ProcessId::parse(id));
        let worker = regular_file::read(path).ok();
        let member = Member {
            process: process.to_owned(),
            worker: worker.and_then(|text| serde_json::from_slice(&text).ok()),
            alive: Alive::of(id.as_ref(), metadata.uid(), Sign { at: sign, now }, expiry),
            sign,
        };
        self.members.insert(process.to_owned(), member);
    }

    fn take_mark(&mut self, key: &str, path: &Path, way: &str) {
        let text = regular_file::read(path).ok();
        let mark = text.and_then(|text| serde_json::from_slice::<Mark>(&text).ok());
        if let Some(mark) = mark.filter(|mark| mark.way == way) {
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

    /// What came of the case whose label map has this name ([`super::output_name`]). A failure in a process that
    /// has ended says nothing: the next one tries again.
    pub fn settled(&self, name: &str) -> Option<&CaseState> {
        let (state, process) = self.marks.get(&key(name))?;
        let lives = self.lives(process).is_some();
        (lives || !matches!(state, CaseState::Failed { .. })).then_some(state)
    }

    /// Who works on that case.
    pub fn held(&self, name: &str) -> Option<Held<'_>> {
        let (_, process, since) = self.claims.get(&key(name))?;
        Some(Held {
            by: self.lives(process)?,
            since: *since,
        })
    }

    /// The processes, dead ones too.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    fn lives(&self, process: &str) -> Option<&Member> {
        let member = self.members.get(process)?;
        (member.alive == Alive::Yes).then_some(member)
    }
}
