//! Prepared cases on disk, under a hash of all that they follow from: any number of runs, folds and processes find
//! there what one of them has made.
//!
//! Nothing depends on it. What is missing, damaged or cannot be written is prepared as if there were no store.

mod file;
mod key;
mod lru;

pub use key::{Key, Wanted};

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};

use ctseg_base::atomic_file::persisted;
use ctseg_base::progress::Observer;
use ctseg_base::temp_files::remove_leftovers;
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::prepared_case::PreparedCase;

use file::Found;
use key::FileHashes;
use lru::Bound;

/// A folder of prepared cases, as one process uses it.
#[derive(Debug)]
pub struct CaseStore {
    folder: PathBuf,
    bound: Bound,
    hashes: FileHashes,
    /// A file could not be written: no other is tried.
    is_closed: AtomicBool,
    has_warned_of_damage: AtomicBool,
    has_warned_of_room: AtomicBool,
}

/// A store in one training.
pub struct StoreUse<'a> {
    store: &'a CaseStore,
    observer: &'a dyn Observer,
    found: AtomicU64,
    made: AtomicU64,
}

impl CaseStore {
    /// The store in `folder`, which is made when there is something to keep, for at most `most_bytes`. Removes what
    /// killed processes have left there.
    pub fn new(folder: &Path, most_bytes: u64) -> Self {
        if folder.is_dir() {
            let _ = remove_leftovers(folder); // where nothing may be written they stay
        }
        Self {
            folder: folder.to_path_buf(),
            bound: Bound::new(folder.to_path_buf(), most_bytes),
            hashes: FileHashes::default(),
            is_closed: AtomicBool::new(false),
            has_warned_of_damage: AtomicBool::new(false),
            has_warned_of_room: AtomicBool::new(false),
        }
    }

    /// What a case is kept under; none for cases that are not kept, see [`Wanted`].
    ///
    /// # Errors
    /// A file of the case cannot be read, or has changed since this process first looked.
    pub fn key(&self, wanted: &Wanted) -> Result<Option<Key>> {
        wanted.key(&self.hashes)
    }

    /// The file of a case, whether it is there or not.
    pub fn path(&self, key: &Key) -> PathBuf {
        self.folder.join(format!("{key}.{}", lru::EXTENSION))
    }

    /// For one training, whose observer hears what goes wrong.
    pub fn used_by<'a>(&'a self, observer: &'a dyn Observer) -> StoreUse<'a> {
        StoreUse {
            store: self,
            observer,
            found: AtomicU64::new(0),
            made: AtomicU64::new(0),
        }
    }

    /// Writes a case, unless what others are writing leaves no room.
    fn write(&self, key: &Key, case: &PreparedCase) -> Result<()> {
        let path = self.path(key);
        let Some(mut temporary) = self.bound.reserved(file::length(case))? else {
            return Ok(());
        };
        {
            let mut writer = BufWriter::new(temporary.as_file_mut());
            file::write(&mut writer, key, case)
                .and_then(|()| writer.flush())
                .map_err(Error::io(&path, "write"))?;
        }
        persisted(temporary, &path)
    }
}

impl StoreUse<'_> {
    /// The case, from the store or as `make` makes it, which is kept then.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn case(
        &self,
        wanted: &Wanted,
        make: impl FnOnce() -> Result<PreparedCase>,
    ) -> Result<PreparedCase> {
        // What is wrong with the case's files, `make` says.
        let Ok(Some(key)) = self.store.key(wanted) else {
            return make();
        };
        if let Some(case) = self.read(&key, wanted.dataset.ignore) {
            self.found.fetch_add(1, Ordering::Relaxed);
            return Ok(case);
        }
        let case = make()?;
        self.made.fetch_add(1, Ordering::Relaxed);
        if wanted.is_unchanged(&self.store.hashes) {
            self.keep(&key, &case);
        }
        Ok(case)
    }

    /// How many cases were found in the store, and how many were made, so far.
    pub fn counts(&self) -> (u64, u64) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (of(&self.found), of(&self.made))
    }

    /// Says what the store was good for.
    pub fn tell(&self) {
        let (found, made) = self.counts();
        let store = self.store;
        let removed = match store.bound.removed() {
            0 => String::new(),
            removed => format!(", {removed} had to go"),
        };
        self.observer.say(&format!(
            "case cache {}: {} read from it, {made} prepared anew{removed}; it holds {} of {}",
            store.folder.display(),
            counted(found, "case"),
            in_words(store.bound.bytes().unwrap_or(0)),
            in_words(store.bound.most_bytes())
        ));
    }

    fn read(&self, key: &Key, ignore: Option<u16>) -> Option<PreparedCase> {
        let path = self.store.path(key);
        match file::read(&path, key, ignore) {
            Found::Case(case) => {
                touch(&path);
                Some(*case)
            }
            Found::Nothing => None,
            Found::Damaged(problem) => {
                self.warn_once(&self.store.has_warned_of_damage, || {
                    let name = path.file_name().unwrap_or_default().display();
                    format!("{name} {problem}; such files are removed, their cases prepared anew")
                });
                let _ = std::fs::remove_file(&path); // a whole one takes its place anyway
                None
            }
        }
    }

    fn keep(&self, key: &Key, case: &PreparedCase) {
        let store = self.store;
        // Another process may have been as fast.
        if store.is_closed.load(Ordering::Relaxed) || store.path(key).exists() {
            return;
        }
        let bytes = file::length(case);
        if bytes > store.bound.most_bytes() {
            self.warn_once(&store.has_warned_of_room, || {
                let needed = in_words(bytes);
                format!(
                    "a case of {needed} does not fit and is not kept; more with --case-cache-size"
                )
            });
            return;
        }
        if let Err(error) = store.write(key, case) {
            self.warn_once(&store.is_closed, || {
                format!("{error}; no more cases are kept")
            });
        }
    }

    fn warn_once(&self, warned: &AtomicBool, what: impl FnOnce() -> String) {
        if !warned.swap(true, Ordering::Relaxed) {
            let folder = self.store.folder.display();
            self.observer
                .warn(&format!("case cache {folder}: {}", what()));
        }
    }
}

fn in_words(bytes: u64) -> String {
    match bytes {
        0..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// Marks a file as used just now, by the clock of its file system. Where that is not allowed it gets old.
fn touch(path: &Path) {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    };
    let times = Timestamps {
        last_access: now,
        last_modification: now,
    };
    let _ = utimensat(CWD, path, &times, AtFlags::empty());
}
