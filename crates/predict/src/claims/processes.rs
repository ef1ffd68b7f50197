//! The processes that share a claims folder, and whether each is alive.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::heartbeat::{Heartbeat, interval};
use ctseg_base::Result;
use ctseg_base::process::id::ProcessId;

/// This process among the others of its folder.
pub(super) struct Processes {
    folder: PathBuf,
    /// This process's name in the folder.
    pub(super) own: String,
    pub(super) expiry: Duration,
    heartbeat: Heartbeat,
    /// The last heartbeats of processes in doubt, and when this process first saw them.
    doubted: Mutex<BTreeMap<String, (SystemTime, Instant)>>,
}

/// The state of a process by its last heartbeat.
enum Life {
    Alive,
    Ended,
    /// The heartbeat has this time, which may come from a wrong clock.
    Doubtful(SystemTime, Doubt),
}

enum Doubt {
    LongAgo,
    InTheFuture,
}

impl Processes {
    /// Joins the processes of `folder` under the name `own`.
    pub(super) fn join(folder: &Path, own: String, expiry: Duration) -> Result<Self> {
        Ok(Self {
            heartbeat: Heartbeat::start(&file_of(folder, &own), expiry)?,
            folder: folder.to_path_buf(),
            own,
            expiry,
            doubted: Mutex::default(),
        })
    }

    pub(super) fn leave(&self) {
        self.heartbeat.end();
    }

    /// Whether a process is certainly alive; `now` caches the file system's time.
    pub(super) fn is_known_alive(
        &self,
        process: &str,
        now: &mut Option<SystemTime>,
    ) -> Result<bool> {
        Ok(matches!(self.life(process, now)?, Life::Alive))
    }

    /// Whether a process may be alive. A process in doubt is observed: for two heartbeat intervals if its last
    /// heartbeat is too old, and for the expiry if it lies in the future.
    pub(super) fn may_be_alive(&self, process: &str) -> Result<bool> {
        let (last_beat, doubt) = match self.life(process, &mut None)? {
            Life::Alive => return Ok(true),
            Life::Ended => return Ok(false),
            Life::Doubtful(last_beat, doubt) => (last_beat, doubt),
        };
        let mut doubted = self.doubted.lock().unwrap_or_else(PoisonError::into_inner);
        let first = || (last_beat, Instant::now());
        let seen = doubted.entry(process.to_owned()).or_insert_with(first);
        if seen.0 != last_beat {
            *seen = first();
        }
        let patience = match doubt {
            Doubt::LongAgo => 2 * interval(self.expiry),
            Doubt::InTheFuture => self.expiry,
        };
        Ok(seen.1.elapsed() <= patience)
    }

    fn life(&self, process: &str, now: &mut Option<SystemTime>) -> Result<Life> {
        if process == self.own {
            return Ok(Life::Alive);
        }
        let Ok(metadata) = fs::metadata(file_of(&self.folder, process)) else {
            return Ok(Life::Ended); // regularly
        };
        let id = process.rsplit_once('.');
        let id = id.and_then(|(id, _)| ProcessId::parse(id));
        if id.and_then(|id| id.is_alive(metadata.uid())) == Some(false) {
            return Ok(Life::Ended);
        }
        let now = match *now {
            Some(now) => now,
            None => *now.insert(self.heartbeat.touch()?),
        };
        let touched = metadata.modified().unwrap_or(now);
        Ok(match now.duration_since(touched) {
            Ok(silent) if silent <= self.expiry => Life::Alive,
            Ok(_) => Life::Doubtful(touched, Doubt::LongAgo),
            Err(ahead) if ahead.duration() <= self.expiry => Life::Alive,
            Err(_) => Life::Doubtful(touched, Doubt::InTheFuture),
        })
    }
}

pub(super) fn file_of(folder: &Path, process: &str) -> PathBuf {
    folder.join(format!("process-{process}"))
}
