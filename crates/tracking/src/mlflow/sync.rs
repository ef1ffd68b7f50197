//! Sending what waits in run folders, once and in the open.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::delivery::{Delivery, Link, Opened, Sent};
use super::error::Fault;
use super::event::{Begun, Event, Status};
use super::event_reader::{Lines, path_in};
use ctseg_base::process::id::ProcessId;
use ctseg_base::progress::Observer;
use ctseg_base::{Error, Result};
use ctseg_http::BackOff;

/// A server that is away is tried so often in a row.
const TRIES: u32 = 5;

/// How deep runs lie in a folder: runs, a sweep's trials.
const DEPTH: usize = 3;

/// How it went with one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synced {
    pub run: PathBuf,
    /// Where the server shows it.
    pub page: Option<String>,
    pub sent: Sent,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The server has all of it.
    All,
    /// Another process sends it.
    Busy,
    /// Something is wrong with this run.
    Failed(String),
    /// Something is wrong with the server, and other runs need not be tried.
    ServerFailed(String),
}

/// The run folders that hold events at or below `path`, parents before their parts.
///
/// # Errors
/// A folder that cannot be read.
pub fn runs_at(path: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    search(path, DEPTH, &mut found)?;
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

/// Sends what the server has not of the run in folder `run`.
pub fn sync(link: &Arc<Link>, run: &Path, observer: &dyn Observer) -> Synced {
    let mut synced = Synced {
        run: run.to_path_buf(),
        page: None,
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
    let sent = all_sent(&mut delivery, run, observer);
    synced.page = delivery.is_known().then(|| delivery.page());
    synced.sent = std::mem::take(&mut delivery.sent);
    synced.outcome = match sent {
        Ok(()) => match delivery.held.take() {
            Some(why) => {
                synced.sent.notes.retain(|note| *note != why);
                Outcome::Failed(why)
            }
            None => Outcome::All,
        },
        Err(fault @ (Fault::Away { .. } | Fault::Closed(_))) => {
            Outcome::ServerFailed(fault.to_string())
        }
        Err(fault) => Outcome::Failed(fault.to_string()),
    };
    synced
}

fn all_sent(delivery: &mut Delivery, run: &Path, observer: &dyn Observer) -> Result<(), Fault> {
    let mut back_off = BackOff::default();
    let mut closing = None;
    loop {
        let step = match closing {
            None => delivery.step(),
            Some(at) => delivery.close(at).map(|()| false),
        };
        match step {
            Ok(true) => back_off.reset(),
            Ok(false) if closing.is_some() => return Ok(()),
            Ok(false) => match died_at(run)? {
                Some(at) => closing = Some(at),
                None => return Ok(()),
            },
            Err(Fault::Away { wait, .. }) if back_off.tries() + 1 < TRIES => {
                let wait = back_off.next(wait);
                if back_off.tries() == 1 {
                    observer.say("the server is slow or away; trying again for a while");
                }
                std::thread::sleep(wait.min(Duration::from_secs(60)));
            }
            Err(fault) => return Err(fault),
        }
    }
}

/// When the run last told something, if its process is gone without having ended it.
fn died_at(run: &Path) -> Result<Option<i64>> {
    use std::os::unix::fs::MetadataExt;
    let mut lines = Lines::open(run, 0)?;
    let (mut last, mut begun): (i64, Option<Begun>) = (0, None);
    while let Some(placed) = lines.next()? {
        let Some(line) = placed.line else { continue };
        last = last.max(line.at);
        match line.event {
            Event::Begun(by) => begun = Some(by),
            Event::Ended { status, .. } if status != Status::Running => begun = None,
            _ => {}
        }
    }
    let process = begun.and_then(|begun| ProcessId::parse(&begun.process));
    let path = path_in(run);
    let owner = std::fs::metadata(&path).map_err(Error::io(&path, "read"))?;
    let alive = process.and_then(|process| process.is_alive(owner.uid()));
    Ok((alive == Some(false)).then_some(last))
}
