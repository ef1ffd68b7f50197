//! Copies a dataset's files to a local disk, once per machine; all processes of the machine share the work.
//!
//! Copies are kept below `ctseg-<user>-<hash of the dataset's root>`. Each has the size and modification time of its
//! file and is replaced if they differ. A process that copies a case holds a lock (flock), released when it ends.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fs::{self, DirBuilder, File, Metadata};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::getuid;
use sha2::{Digest, Sha256};

use super::{Case, Copies, Dataset};
use ctseg_base::atomic_file::{TEMP_PREFIX, create_folder, parent_of, persist, temporary_file};
use ctseg_base::cancel::check_stop;
use ctseg_base::limits::spawn::spawn_scoped;
use ctseg_base::progress::{Observer, Task};
use ctseg_base::temp_files::remove_stale_temp_files;
use ctseg_base::text::bytes::decimal;
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result, regular_file};

/// Enough to keep a file server busy without overloading it.
const THREADS: usize = 4;

/// Number of locks, shared by all cases: a dataset may have more cases than a folder should have files.
const LOCKS: usize = 64;

/// How often to check for cases that other processes are copying.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The dataset with the files of its training cases read from copies below `scratch`; missing copies are created.
/// On failure (such as too little space) it warns, and files without a copy are read from their original location.
///
/// # Errors
/// [`Error::Interrupted`] when stopped.
pub fn staged(
    dataset: Dataset,
    scratch: &Path,
    stop: &AtomicBool,
    observer: &dyn Observer,
) -> Result<Dataset> {
    let started = Instant::now();
    let done = Staging::prepare(&dataset, scratch).and_then(|staging| {
        let task = observer.task("copying to scratch", staging.cases.len() as u64, "cases");
        staging.run(stop, task.as_ref())?;
        Ok(staging)
    });
    let staging = match done {
        Ok(staging) => staging,
        Err(stopped @ Error::Interrupted(_)) => return Err(stopped),
        Err(error) => {
            observer.warn(&format!(
                "{error}; reading the data from its original location"
            ));
            return Ok(dataset);
        }
    };
    if let Some(problem) = staging.locked(&staging.problem).take() {
        observer.warn(&format!(
            "{problem}; reading files that were not copied from their original location"
        ));
    }
    let copies = std::mem::take(&mut *staging.locked(&staging.copies));
    observer.info(&format!(
        "scratch {}: {} of {}; {} of them ({}) copied now in {:.0} s",
        staging.folder.display(),
        counted(copies.len(), "file"),
        counted(staging.cases.len(), "case"),
        staging.copied_files.load(Ordering::Relaxed),
        decimal(staging.copied_bytes.load(Ordering::Relaxed)),
        started.elapsed().as_secs_f64()
    ));
    Ok(Dataset {
        copies: Copies::from(copies),
        ..dataset
    })
}

struct Staging {
    folder: PathBuf,
    /// For each case its files and the paths of their copies.
    cases: Vec<Vec<(PathBuf, PathBuf)>>,
    copies: Mutex<HashMap<PathBuf, PathBuf>>,
    copied_files: AtomicU64,
    copied_bytes: AtomicU64,
    /// The error that stopped copying.
    problem: Mutex<Option<Error>>,
}

impl Staging {
    /// Creates the folder and checks for free space.
    fn prepare(dataset: &Dataset, scratch: &Path) -> Result<Self> {
        let root = fs::canonicalize(&dataset.root).unwrap_or_else(|_| dataset.root.clone());
        let hash = hash_of(&root);
        let folder = scratch.join(format!("ctseg-{}-{hash}", getuid().as_raw()));
        own_folder(&folder)?;
        remove_stale_temp_files(&folder)?;
        let cases = dataset.training_cases().into_iter().map(|case| {
            let files = files_of(&dataset.cases[case]).into_iter();
            let pairs = files.map(|file| (file.clone(), copy_path(&folder, &dataset.root, file)));
            pairs.collect()
        });
        let staging = Self {
            cases: cases.collect(),
            folder,
            copies: Mutex::default(),
            copied_files: AtomicU64::new(0),
            copied_bytes: AtomicU64::new(0),
            problem: Mutex::new(None),
        };
        staging.check_free_space()?;
        Ok(staging)
    }

    fn check_free_space(&self) -> Result<()> {
        let all: BTreeSet<&(PathBuf, PathBuf)> = self.cases.iter().flatten().collect();
        let missing = all.into_iter().filter_map(|(file, copy)| {
            let file = fs::metadata(file).ok()?;
            (!is_copy(copy, &file)).then_some(file.len())
        });
        let needed = missing.sum::<u64>();
        // If the file system does not report free space, assume enough.
        let Ok(stats) = rustix::fs::statvfs(&self.folder) else {
            return Ok(());
        };
        // Partial copies of other processes already take part of the needed space.
        let free = stats.f_bavail.saturating_mul(stats.f_frsize) + partial_bytes(&self.folder);
        if needed <= free {
            return Ok(());
        }
        Err(Error::file(
            &self.folder,
            format!(
                "not enough space: the dataset needs {} more, {} are free",
                decimal(needed),
                decimal(free)
            ),
        ))
    }

    fn run(&self, stop: &AtomicBool, task: &dyn Task) -> Result<()> {
        let waiting: Mutex<VecDeque<usize>> = Mutex::new((0..self.cases.len()).collect());
        let copy = || self.copy_cases(&waiting, stop, task);
        std::thread::scope(|scope| {
            // This thread copies too, so failing to start others is only slower.
            let others = (1..THREADS).filter_map(|_| spawn_scoped(scope, "copy", copy).ok());
            let others: Vec<_> = others.collect();
            copy()?;
            for thread in others {
                let ended = thread.join();
                ended.unwrap_or_else(|_| Err(Error::internal("a copy panicked")))?;
            }
            Ok(())
        })
    }

    fn copy_cases(
        &self,
        waiting: &Mutex<VecDeque<usize>>,
        stop: &AtomicBool,
        task: &dyn Task,
    ) -> Result<()> {
        loop {
            check_stop(stop, || "the data was being copied to scratch".to_owned())?;
            let Some(case) = self.locked(waiting).pop_front() else {
                return Ok(());
            };
            match self.lock_of(case) {
                Ok(Some(_lock)) => self.copy_case(case),
                // Another process or thread is copying it.
                Ok(None) => {
                    self.locked(waiting).push_back(case);
                    std::thread::sleep(POLL_INTERVAL);
                    continue;
                }
                Err(error) => self.record_problem(error),
            }
            task.advance(1);
        }
    }

    /// Creates missing copies until the first failure.
    fn copy_case(&self, case: usize) {
        for (file, copy) in &self.cases[case] {
            // Unreadable files are reported by the dataset's check.
            let Ok(metadata) = fs::metadata(file) else {
                continue;
            };
            if !is_copy(copy, &metadata) {
                if self.locked(&self.problem).is_some() {
                    continue;
                }
                if let Err(error) = self.copy(file, copy) {
                    self.record_problem(error);
                    continue;
                }
                self.copied_files.fetch_add(1, Ordering::Relaxed);
                self.copied_bytes
                    .fetch_add(metadata.len(), Ordering::Relaxed);
            }
            self.locked(&self.copies).insert(file.clone(), copy.clone());
        }
    }

    fn copy(&self, file: &Path, copy: &Path) -> Result<()> {
        let mut source = regular_file::open(file).map_err(Error::io(file, "read"))?;
        let before = source.metadata().map_err(Error::io(file, "read"))?;
        let mut temporary = temporary_file(&self.folder)?;
        std::io::copy(&mut source, temporary.as_file_mut()).map_err(Error::io(copy, "copy to"))?;
        let modified = before.modified().map_err(Error::io(file, "read"))?;
        let dated = temporary.as_file().set_modified(modified);
        dated.map_err(Error::io(copy, "set the modification time of"))?;
        let after = fs::metadata(file).map_err(Error::io(file, "read"))?;
        if after.modified().ok() != Some(modified) || !is_copy(temporary.path(), &after) {
            return Err(Error::file(file, "changed while it was being copied"));
        }
        let folder = parent_of(copy);
        create_folder(folder)?;
        persist(temporary, copy)
    }

    /// The lock for copying a case; none while another process or thread holds it.
    fn lock_of(&self, case: usize) -> Result<Option<File>> {
        let path = self.folder.join(format!("lock-{}", case % LOCKS));
        let file = regular_file::append_to(&path).map_err(Error::io(&path, "open"))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            // Without file locks, several processes may write one copy; each replaces it atomically.
            _ => Ok(Some(file)),
        }
    }

    fn record_problem(&self, error: Error) {
        self.locked(&self.problem).get_or_insert(error);
    }

    fn locked<'a, T>(&self, mutex: &'a Mutex<T>) -> MutexGuard<'a, T> {
        // No code leaves the state inconsistent, so a poisoned lock is safe to use.
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn files_of(case: &Case) -> Vec<&PathBuf> {
    let image = std::iter::once(&case.image);
    image.chain(case.labels.files()).collect()
}

/// The path of a file's copy: as below the dataset's root, or in a folder of its own if it lies outside.
fn copy_path(folder: &Path, root: &Path, file: &Path) -> PathBuf {
    let is_plain = |path: &Path| path.components().all(|c| matches!(c, Component::Normal(_)));
    match file.strip_prefix(root) {
        Ok(inside) if is_plain(inside) => folder.join("data").join(inside),
        _ => {
            let hash = hash_of(&std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf()));
            let name = file.file_name().unwrap_or_default();
            folder.join("elsewhere").join(hash).join(name)
        }
    }
}

fn hash_of(path: &Path) -> String {
    let hash = Sha256::digest(path.as_os_str().as_encoded_bytes());
    format!("{hash:x}")[..12].to_owned()
}

/// Whether a copy with the file's size and modification time exists. Some scratch file systems store whole seconds.
fn is_copy(copy: &Path, file: &Metadata) -> bool {
    let Ok(copy) = fs::metadata(copy) else {
        return false;
    };
    let whole_seconds = copy.mtime_nsec() == 0;
    copy.is_file()
        && copy.len() == file.len()
        && copy.mtime() == file.mtime()
        && (whole_seconds || copy.mtime_nsec() == file.mtime_nsec())
}

/// Bytes of copies in progress.
fn partial_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let partial = entries.filter(|entry| {
        let name = entry.file_name();
        name.to_str()
            .is_some_and(|name| name.starts_with(TEMP_PREFIX))
    });
    partial
        .filter_map(|entry| Some(entry.metadata().ok()?.len()))
        .sum()
}

/// Creates a folder that only this user can read; refuses an existing one of another user, who could plant data there.
fn own_folder(folder: &Path) -> Result<()> {
    let parent = parent_of(folder);
    create_folder(parent)?;
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        made => return made.map_err(Error::io(folder, "create the folder")),
    }
    let found = fs::symlink_metadata(folder).map_err(Error::io(folder, "inspect"))?;
    if found.is_dir() && found.uid() == getuid().as_raw() {
        return Ok(());
    }
    Err(Error::file(
        folder,
        "belongs to another user, or is not a folder; remove it or choose another --scratch",
    ))
}
