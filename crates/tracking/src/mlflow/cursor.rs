//! `tracking/delivered.json` in a run folder: what each server has of the run; and who may send.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::event_reader::FOLDER;
use ctseg_base::atomic_file::write_bytes_atomically;
use ctseg_base::{Error, Result, regular_file};

const FILE: &str = "delivered.json";
const LOCK: &str = "lock";

/// By server, without login.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered {
    servers: BTreeMap<String, Standing>,
}

/// What one server has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Its name and the server's number for it.
    pub experiment: String,
    pub experiment_id: String,
    /// The server's number for the run.
    pub run_id: String,
    /// And for those of its networks, by name.
    pub networks: BTreeMap<String, String>,
    /// Bytes of the events whose numbers it has.
    pub numbers: u64,
    /// Bytes of the events whose files it has.
    pub files: u64,
    /// SHA-256 of the files it has, by where they are shown.
    pub artifacts: BTreeMap<String, String>,
    /// The server was told that the process is gone without having ended its run.
    #[serde(default)]
    pub is_closed: bool,
    /// The server's number for a group's run that was made with this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_made: Option<String>,
}

fn path_in(run: &Path) -> PathBuf {
    run.join(FOLDER).join(FILE)
}

impl Delivered {
    /// What `server` has of the run. Where this was lost, everything is sent again, to the same run, and has no
    /// effect where it is there.
    pub fn read(run: &Path, server: &str) -> Standing {
        let mut known = Self::all(run);
        known.servers.remove(server).unwrap_or_default()
    }

    fn all(run: &Path) -> Self {
        let bytes = regular_file::read(&path_in(run)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// # Errors
    /// It cannot be written.
    pub fn write(run: &Path, server: &str, standing: &Standing) -> Result<()> {
        let mut all = Self::all(run);
        all.servers.insert(server.to_owned(), standing.clone());
        let path = path_in(run);
        let text = serde_json::to_string_pretty(&all)
            .map_err(|error| Error::file(&path, format!("cannot be written: {error}")))?;
        write_bytes_atomically(&path, (text + "\n").as_bytes())
    }
}

/// Held by the one process that sends a run's events; it ends with the process, however that ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// None if another process sends.
    pub fn take(run: &Path) -> Result<Option<Self>> {
        let path = run.join(FOLDER).join(LOCK);
        let file = regular_file::append_to(&path).map_err(Error::io(&path, "open"))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => Ok(None),
            // Storage without locks; what is sent twice is there once all the same.
            Ok(()) | Err(_) => Ok(Some(Self { _file: file })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sends_at_a_time_and_each_server_has_its_own_standing() {
        let run = tempfile::tempdir().unwrap();
        std::fs::create_dir(run.path().join(FOLDER)).unwrap();
        let lock = Lock::take(run.path()).unwrap();
        assert!(lock.is_some() && Lock::take(run.path()).unwrap().is_none());
        drop(lock);
        assert!(Lock::take(run.path()).unwrap().is_some());
        let of = |id: &str, numbers| Standing {
            run_id: id.to_owned(),
            numbers,
            ..Standing::default()
        };
        Delivered::write(run.path(), "http://a", &of("1", 10)).unwrap();
        Delivered::write(run.path(), "http://b", &of("2", 20)).unwrap();
        Delivered::write(run.path(), "http://a", &of("1", 30)).unwrap();
        assert_eq!(Delivered::read(run.path(), "http://a"), of("1", 30));
        assert_eq!(Delivered::read(run.path(), "http://b"), of("2", 20));
        std::fs::write(path_in(run.path()), "{").unwrap();
        assert_eq!(Delivered::read(run.path(), "http://a"), Standing::default());
    }
}
