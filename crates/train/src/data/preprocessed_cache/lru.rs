//! A folder of files that together stay below a bound, whoever else writes there.
//!
//! Nobody locks anything, which file servers would have to support. Who writes a file first makes it, empty but of its
//! full length, under a temporary name: others count it from then on. Then old files go until all fits, and only then
//! is it filled. Of several that do so at once, the last to look sees them all.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use tempfile::NamedTempFile;

use ctseg_base::atomic_file::{TEMPORARY, create_folder, temporary_file};
use ctseg_base::temp_files::remove_leftovers;
use ctseg_base::{Error, Result};

/// What the names of whole files end in; others in the folder are left alone and do not count.
pub(super) const EXTENSION: &str = "case";

/// Keeps a folder below a number of bytes; the least recently used files go first.
#[derive(Debug)]
pub(super) struct Bound {
    folder: PathBuf,
    most_bytes: u64,
    reserving: Mutex<()>,
    removed: AtomicU64,
}

struct Entry {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

impl Bound {
    pub(super) fn new(folder: PathBuf, most_bytes: u64) -> Self {
        Self {
            folder,
            most_bytes,
            reserving: Mutex::new(()),
            removed: AtomicU64::new(0),
        }
    }

    pub(super) fn most_bytes(&self) -> u64 {
        self.most_bytes
    }

    /// How many files had to go.
    pub(super) fn removed(&self) -> u64 {
        self.removed.load(Ordering::Relaxed)
    }

    /// A temporary file of `bytes` for which there is room now; none if removing all whole files makes no room.
    ///
    /// # Errors
    /// The folder cannot be made, read or written.
    pub(super) fn reserved(&self, bytes: u64) -> Result<Option<NamedTempFile>> {
        if bytes > self.most_bytes {
            return Ok(None); // and nothing has to go for it
        }
        let _alone = self
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
        // Others may have come in between.
        Ok(self.has_room(0)?.then_some(temporary))
    }

    /// Bytes of all files, also of those that are being written.
    pub(super) fn bytes(&self) -> Result<u64> {
        let (entries, temporary) = self.entries()?;
        Ok(temporary + entries.iter().map(|entry| entry.bytes).sum::<u64>())
    }

    /// Removes what must go for `more` bytes; false if that is not enough.
    fn has_room(&self, more: u64) -> Result<bool> {
        let fits = |bytes: u64| bytes.saturating_add(more) <= self.most_bytes;
        if fits(self.bytes()?) {
            return Ok(true);
        }
        remove_leftovers(&self.folder)?;
        let (mut entries, temporary) = self.entries()?;
        let mut bytes = temporary + entries.iter().map(|entry| entry.bytes).sum::<u64>();
        entries.sort_by(|a, b| (a.used, &a.path).cmp(&(b.used, &b.path)));
        for entry in &entries {
            if fits(bytes) {
                break;
            }
            // What another process has removed is gone all the same; what is another user's may have to stay.
            if fs::remove_file(&entry.path).is_ok() {
                self.removed.fetch_add(1, Ordering::Relaxed);
            }
            if !entry.path.exists() {
                bytes -= entry.bytes;
            }
        }
        Ok(fits(bytes))
    }

    /// Whole files, and the bytes of temporary ones.
    fn entries(&self) -> Result<(Vec<Entry>, u64)> {
        let folder = &self.folder;
        let listed = fs::read_dir(folder).map_err(Error::io(folder, "read the folder"))?;
        let (mut whole, mut temporary) = (Vec::new(), 0);
        for entry in listed {
            let path = entry.map_err(Error::io(folder, "read the folder"))?.path();
            let is_temporary = is_temporary(&path);
            if !is_temporary && path.extension() != Some(OsStr::new(EXTENSION)) {
                continue;
            }
            // Gone since, if it cannot be asked.
            let Ok(metadata) = fs::metadata(&path) else {
                continue;
            };
            if is_temporary {
                temporary += metadata.len();
                continue;
            }
            whole.push(Entry {
                path,
                bytes: metadata.len(),
                used: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            });
        }
        Ok((whole, temporary))
    }
}

fn is_temporary(path: &Path) -> bool {
    let name = path.file_name().and_then(OsStr::to_str);
    name.is_some_and(|name| name.starts_with(TEMPORARY))
}
