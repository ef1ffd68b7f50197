//! Uploads pending events of run folders in the foreground, for `ctseg sync`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::delivery::{Delivery, Link, Opened, Sent};
use super::error::Fault;
use super::event::{Event, RunStart, Status};
use super::event_reader::{Lines, path_in};
use ctseg_base::process::id::ProcessId;
use ctseg_base::progress::Observer;
use ctseg_base::{Error, Result};
use ctseg_http::BackOff;

/// Attempts in a row while the server is unavailable.
const MAX_TRIES: u32 = 5;

/// Depth of the search for run folders: runs, trials of a sweep.
const MAX_DEPTH: usize = 3;

/// The result for one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncResult {
    pub run: PathBuf,
    /// The run's page on the server.
    pub url: Option<String>,
    pub sent: Sent,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Everything is uploaded.
    All,
    /// Another process uploads it.
    Busy,
    /// An error of this run.
    Failed(String),
    /// An error of the server, which affects all runs.
    ServerFailed(String),
}

/// The run folders with events at or below `path`, parents before their children.
///
/// # Errors
/// A folder that cannot be read.
pub fn runs_at(path: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    search(path, MAX_DEPTH, &mut found)?;
    found.sort();
    Ok(found)
}

fn search(path: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
    if path_in(path).is_file() {
        found.push(path.to_path_buf());
    }
    if depth == 0 {
        return Ok(());
    }
    let entries = std::fs::read_dir(path).map_err(Error::io(path, "read the folder"))?;
    for entry in entries {
        let entry = entry.map_err(Error::io(path, "read the folder"))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            search(&entry.path(), depth - 1, found)?;
        }
    }
    Ok(())
}

/// Uploads the pending events of the run in folder `run`.
pub fn sync(link: &Arc<Link>, run: &Path, observer: &dyn Observer) -> SyncResult {
    let mut synced = SyncResult {
        run: run.to_path_buf(),
        url: None,
        sent: Sent::default(),
        outcome: Outcome::All,
    };
    let mut delivery = match Delivery::open(link, run) {
        Ok(Opened::Ready(delivery)) => delivery,
        Ok(Opened::Busy) => {
            synced.outcome = Outcome::Busy;
            return synced;
        }
        Ok(Opened::Empty) => return synced,
        Err(error) => {
            synced.outcome = Outcome::Failed(error.to_string());
            return synced;
        }
    };
    let sent = send_all(&mut delivery, run, observer);
    synced.url = delivery.is_created().then(|| delivery.url());
    synced.sent = std::mem::take(&mut delivery.sent);
    synced.outcome = match sent {
        Ok(()) => match delivery.blocked.take() {
            Some(why) => {
                synced.sent.notes.retain(|note| *note != why);
                Outcome::Failed(why)
            }
            None => Outcome::All,
        },
        Err(fault @ (Fault::Unavailable { .. } | Fault::Fatal { .. })) => {
            Outcome::ServerFailed(fault.to_string())
        }
        Err(fault) => Outcome::Failed(fault.to_string()),
    };
    synced
}

fn send_all(delivery: &mut Delivery, run: &Path, observer: &dyn Observer) -> Result<(), Fault> {
    let mut back_off = BackOff::default();
    let mut killed_at = None;
    loop {
        let step = match killed_at {
            None => delivery.send_next(),
            Some(at) => delivery.mark_killed(at).map(|()| false),
        };
        match step {
            Ok(true) => back_off.reset(),
            Ok(false) if killed_at.is_some() => return Ok(()),
            Ok(false) => match died_at(run)? {
                Some(at) => killed_at = Some(at),
                None => return Ok(()),
            },
            Err(Fault::Unavailable { wait, .. }) if back_off.tries() + 1 < MAX_TRIES => {
                let wait = back_off.next(wait);
                if back_off.tries() == 1 {
                    observer.info("the MLflow server does not respond; retrying");
                }
                std::thread::sleep(wait.min(Duration::from_secs(60)));
            }
            Err(fault) => return Err(fault),
        }
    }
}

/// The time of the last event, if the run's process died without ending the run.
fn died_at(run: &Path) -> Result<Option<i64>> {
    use std::os::unix::fs::MetadataExt;
    let mut lines = Lines::open(run, 0)?;
    let (mut last, mut start): (i64, Option<RunStart>) = (0, None);
    while let Some(positioned) = lines.next()? {
        let Some(line) = positioned.line else {
            continue;
        };
        last = last.max(line.at);
        match line.event {
            Event::Started(by) => start = Some(by),
            Event::Ended { status, .. } if status != Status::Running => start = None,
            _ => {}
        }
    }
    let process = start.and_then(|start| ProcessId::parse(&start.process));
    let path = path_in(run);
    let owner = std::fs::metadata(&path).map_err(Error::io(&path, "read"))?;
    let alive = process.and_then(|process| process.is_alive(owner.uid()));
    Ok((alive == Some(false)).then_some(last))
}
