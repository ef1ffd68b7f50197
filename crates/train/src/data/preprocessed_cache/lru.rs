//! A folder of files with a total size limit, shared by several processes.
//!
//! It uses no locks, which not every file server supports. A writer first creates a temporary file of the full length,
//! which the others count from then on. It then removes old files until all fit, and only then writes the data. If
//! several processes do this at the same time, the last one to check sees all temporary files.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use tempfile::NamedTempFile;

use ctseg_base::atomic_file::{TEMP_PREFIX, create_folder, temporary_file};
use ctseg_base::temp_files::remove_stale_temp_files;
use ctseg_base::{Error, Result};

/// Extension of complete files. Other files in the folder are not touched and do not count.
pub(super) const EXTENSION: &str = "case";

/// Keeps a folder below a number of bytes; the least recently used files are removed first.
#[derive(Debug)]
pub(super) struct LruFolder {
    folder: PathBuf,
    max_bytes: u64,
    reserving: Mutex<()>,
    removed: AtomicU64,
}

struct Entry {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

impl LruFolder {
    pub(super) fn new(folder: PathBuf, max_bytes: u64) -> Self {
        Self {
            folder,
            max_bytes,
            reserving: Mutex::new(()),
            removed: AtomicU64::new(0),
        }
    }

    pub(super) fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// Number of files removed so far.
    pub(super) fn removed(&self) -> u64 {
        self.removed.load(Ordering::Relaxed)
    }

    /// Makes room for a file of `bytes` and creates it under a temporary name; none if it does not fit even with all
    /// complete files removed.
    ///
    /// # Errors
    /// The folder cannot be created, read or written.
    pub(super) fn reserve(&self, bytes: u64) -> Result<Option<NamedTempFile>> {
        if bytes > self.max_bytes {
            return Ok(None); // remove nothing for it
        }
        let _guard = self
            .reserving
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        create_folder(&self.folder)?;
        if !self.has_room(bytes)? {
            return Ok(None);
        }
        let temporary = temporary_file(&self.folder)?;
        let lengthened = temporary.as_file().set_len(bytes);
        lengthened.map_err(Error::io(&self.folder, "write into the folder"))?;
        // Other processes may have reserved space meanwhile.
        Ok(self.has_room(0)?.then_some(temporary))
    }

    /// Bytes of all files, including those being written.
    pub(super) fn bytes(&self) -> Result<u64> {
        let (entries, temporary) = self.entries()?;
        Ok(temporary + entries.iter().map(|entry| entry.bytes).sum::<u64>())
    }

    /// Removes old files until `more` bytes fit; returns false if that is not enough.
    fn has_room(&self, more: u64) -> Result<bool> {
        let fits = |bytes: u64| bytes.saturating_add(more) <= self.max_bytes;
        if fits(self.bytes()?) {
            return Ok(true);
        }
        remove_stale_temp_files(&self.folder)?;
        let (mut entries, temporary) = self.entries()?;
        let mut bytes = temporary + entries.iter().map(|entry| entry.bytes).sum::<u64>();
        entries.sort_by(|a, b| (a.used, &a.path).cmp(&(b.used, &b.path)));
        for entry in &entries {
            if fits(bytes) {
                break;
            }
            // Another process may have removed it already; a file of another user may not be removable.
            if fs::remove_file(&entry.path).is_ok() {
                self.removed.fetch_add(1, Ordering::Relaxed);
            }
            if !entry.path.exists() {
                bytes -= entry.bytes;
            }
        }
        Ok(fits(bytes))
    }

    /// Complete files, and the total bytes of temporary ones.
    fn entries(&self) -> Result<(Vec<Entry>, u64)> {
        let folder = &self.folder;
        let listed = fs::read_dir(folder).map_err(Error::io(folder, "read the folder"))?;
        let (mut complete, mut temporary) = (Vec::new(), 0);
        for entry in listed {
            let path = entry.map_err(Error::io(folder, "read the folder"))?.path();
            let is_temporary = is_temporary(&path);
            if !is_temporary && path.extension() != Some(OsStr::new(EXTENSION)) {
                continue;
            }
            // Removed meanwhile.
            let Ok(metadata) = fs::metadata(&path) else {
                continue;
            };
            if is_temporary {
                temporary += metadata.len();
                continue;
            }
            complete.push(Entry {
                path,
                bytes: metadata.len(),
                used: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            });
        }
        Ok((complete, temporary))
    }
}

fn is_temporary(path: &Path) -> bool {
    let name = path.file_name().and_then(OsStr::to_str);
    name.is_some_and(|name| name.starts_with(TEMP_PREFIX))
}
