//! Preprocessed cases on disk, keyed by a hash of everything they depend on and shared by any number of runs, folds and
//! processes.
//!
//! The cache is optional: a case that is missing, damaged or cannot be written is preprocessed as without a cache.

mod file;
mod key;
mod lru;

pub use key::{CaseRequest, Key};

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ctseg_base::atomic_file::{persist, touch};
use ctseg_base::progress::Observer;
use ctseg_base::temp_files::remove_stale_temp_files;
use ctseg_base::text::bytes::decimal;
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::prepared_case::PreparedCase;

use file::ReadResult;
use key::FileHashes;
use lru::LruFolder;

/// A folder of preprocessed cases, as used by one process.
#[derive(Debug)]
pub struct PreprocessedCache {
    folder: PathBuf,
    files: LruFolder,
    hashes: FileHashes,
    /// Set after a write error; no more cases are written.
    is_read_only: AtomicBool,
    has_warned_of_damage: AtomicBool,
    has_warned_of_size: AtomicBool,
}

/// The cache as used by one training.
pub struct CacheSession<'a> {
    cache: &'a PreprocessedCache,
    observer: &'a dyn Observer,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl PreprocessedCache {
    /// The cache in `folder`, which is created with the first case, limited to `max_bytes`. Removes temporary files of
    /// killed processes.
    pub fn new(folder: &Path, max_bytes: u64) -> Self {
        if folder.is_dir() {
            let _ = remove_stale_temp_files(folder); // a read-only folder keeps them
        }
        Self {
            folder: folder.to_path_buf(),
            files: LruFolder::new(folder.to_path_buf(), max_bytes),
            hashes: FileHashes::default(),
            is_read_only: AtomicBool::new(false),
            has_warned_of_damage: AtomicBool::new(false),
            has_warned_of_size: AtomicBool::new(false),
        }
    }

    /// The key of a case; none for cases that are not cached, see [`CaseRequest`].
    ///
    /// # Errors
    /// A file of the case cannot be read, or has changed since this process first read it.
    pub fn key(&self, request: &CaseRequest) -> Result<Option<Key>> {
        request.key(&self.hashes)
    }

    /// The path of a case's file, whether it exists or not.
    pub fn path(&self, key: &Key) -> PathBuf {
        self.folder.join(format!("{key}.{}", lru::EXTENSION))
    }

    /// A session for one training; problems are reported to its observer.
    pub fn session<'a>(&'a self, observer: &'a dyn Observer) -> CacheSession<'a> {
        CacheSession {
            cache: self,
            observer,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// Writes a case, unless files that others are writing leave no room.
    fn write(&self, key: &Key, case: &PreparedCase) -> Result<()> {
        let path = self.path(key);
        let Some(mut temporary) = self.files.reserve(file::length(case))? else {
            return Ok(());
        };
        {
            let mut writer = BufWriter::new(temporary.as_file_mut());
            file::write(&mut writer, key, case)
                .and_then(|()| writer.flush())
                .map_err(Error::io(&path, "write"))?;
        }
        persist(temporary, &path)
    }
}

impl CacheSession<'_> {
    /// The case from the cache or, if it is not there, as `make` returns it, which is then cached.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn case(
        &self,
        request: &CaseRequest,
        make: impl FnOnce() -> Result<PreparedCase>,
    ) -> Result<PreparedCase> {
        // `make` reports problems with the case's files.
        let Ok(Some(key)) = self.cache.key(request) else {
            return make();
        };
        if let Some(case) = self.read(&key, request.dataset.ignore) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(case);
        }
        let case = make()?;
        self.misses.fetch_add(1, Ordering::Relaxed);
        if request.is_unchanged(&self.cache.hashes) {
            self.keep(&key, &case);
        }
        Ok(case)
    }

    /// Number of cases read from the cache, and preprocessed, so far.
    pub fn counts(&self) -> (u64, u64) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (of(&self.hits), of(&self.misses))
    }

    /// Reports how the cache was used.
    pub fn report(&self) {
        let (hits, misses) = self.counts();
        let cache = self.cache;
        let removed = match cache.files.removed() {
            0 => String::new(),
            removed => format!(", {removed} evicted"),
        };
        self.observer.info(&format!(
            "case cache {}: {} read, {misses} preprocessed{removed}; {} of {} in use",
            cache.folder.display(),
            counted(hits, "case"),
            decimal(cache.files.bytes().unwrap_or(0)),
            decimal(cache.files.max_bytes())
        ));
    }

    fn read(&self, key: &Key, ignore: Option<u16>) -> Option<PreparedCase> {
        let path = self.cache.path(key);
        match file::read(&path, key, ignore) {
            ReadResult::Case(case) => {
                let _ = touch(&path); // without permission the file simply ages
                Some(*case)
            }
            ReadResult::Missing => None,
            ReadResult::Damaged(problem) => {
                self.warn_once(&self.cache.has_warned_of_damage, || {
                    let name = path.file_name().unwrap_or_default().display();
                    format!("{name} {problem}; such files are removed and their cases preprocessed again")
                });
                let _ = std::fs::remove_file(&path); // a valid one replaces it anyway
                None
            }
        }
    }

    fn keep(&self, key: &Key, case: &PreparedCase) {
        let cache = self.cache;
        // Another process may have written it meanwhile.
        if cache.is_read_only.load(Ordering::Relaxed) || cache.path(key).exists() {
            return;
        }
        let bytes = file::length(case);
        if bytes > cache.files.max_bytes() {
            self.warn_once(&cache.has_warned_of_size, || {
                let needed = decimal(bytes);
                format!(
                    "a case of {needed} exceeds the cache size and is not cached; raise --case-cache-size"
                )
            });
            return;
        }
        if let Err(error) = cache.write(key, case) {
            self.warn_once(&cache.is_read_only, || {
                format!("{error}; no more cases are cached")
            });
        }
    }

    fn warn_once(&self, warned: &AtomicBool, what: impl FnOnce() -> String) {
        if !warned.swap(true, Ordering::Relaxed) {
            let folder = self.cache.folder.display();
            self.observer
                .warn(&format!("case cache {folder}: {}", what()));
        }
    }
}
