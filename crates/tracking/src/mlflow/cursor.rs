//! `tracking/delivered.json` in a run folder: how much of the run each server has, and the lock of the process that
//! uploads.

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

/// Cursors by server address (without login).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered {
    servers: BTreeMap<String, Cursor>,
}

/// How much of a run one server has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Name and ID of the experiment.
    pub experiment: String,
    pub experiment_id: String,
    /// The run ID on the server.
    pub run_id: String,
    /// Run IDs of its networks, by name.
    pub networks: BTreeMap<String, String>,
    /// Bytes of the event file whose metrics, parameters and tags are uploaded.
    pub numbers: u64,
    /// Bytes of the event file whose artifacts are uploaded.
    pub files: u64,
    /// SHA-256 of the uploaded artifacts, by artifact path.
    pub artifacts: BTreeMap<String, String>,
    /// The run is marked KILLED because its process died.
    #[serde(default)]
    pub is_closed: bool,
    /// Run ID of the group's parent run, if this run created it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_made: Option<String>,
}

fn path_in(run: &Path) -> PathBuf {
    run.join(FOLDER).join(FILE)
}

impl Delivered {
    /// The cursor of `server`. If the file was lost, everything is uploaded again to the same run, which changes
    /// nothing there.
    pub fn read(run: &Path, server: &str) -> Cursor {
        let mut known = Self::all(run);
        known.servers.remove(server).unwrap_or_default()
    }

    fn all(run: &Path) -> Self {
        let bytes = regular_file::read(&path_in(run)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// # Errors
    /// It cannot be written.
    pub fn write(run: &Path, server: &str, cursor: &Cursor) -> Result<()> {
        let mut all = Self::all(run);
        all.servers.insert(server.to_owned(), cursor.clone());
        let path = path_in(run);
        let text = serde_json::to_string_pretty(&all)
            .map_err(|error| Error::file(&path, format!("cannot be written: {error}")))?;
        write_bytes_atomically(&path, (text + "\n").as_bytes())
    }
}

/// Lock of the one process that uploads a run's events; released when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// `None` if another process holds the lock.
    pub fn take(run: &Path) -> Result<Option<Self>> {
        let path = run.join(FOLDER).join(LOCK);
        let file = regular_file::append_to(&path).map_err(Error::io(&path, "open"))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => Ok(None),
            // Storage without locks: uploading twice is harmless.
            Ok(()) | Err(_) => Ok(Some(Self { _file: file })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_uploads_at_a_time_and_each_server_has_its_own_cursor() {
        let run = tempfile::tempdir().unwrap();
        std::fs::create_dir(run.path().join(FOLDER)).unwrap();
        let lock = Lock::take(run.path()).unwrap();
        assert!(lock.is_some() && Lock::take(run.path()).unwrap().is_none());
        drop(lock);
        assert!(Lock::take(run.path()).unwrap().is_some());
        let of = |id: &str, numbers| Cursor {
            run_id: id.to_owned(),
            numbers,
            ..Cursor::default()
        };
        Delivered::write(run.path(), "http://a", &of("1", 10)).unwrap();
        Delivered::write(run.path(), "http://b", &of("2", 20)).unwrap();
        Delivered::write(run.path(), "http://a", &of("1", 30)).unwrap();
        assert_eq!(Delivered::read(run.path(), "http://a"), of("1", 30));
        assert_eq!(Delivered::read(run.path(), "http://b"), of("2", 20));
        std::fs::write(path_in(run.path()), "{").unwrap();
        assert_eq!(Delivered::read(run.path(), "http://a"), Cursor::default());
    }
}
