//! A dataset's files copied to a disk of this machine, once, by all processes of the machine together.
//!
//! Copies lie below `ctseg-<user>-<hash of the dataset's root>` and stay there. Each has length and time of its file
//! and is made anew where they differ. Who copies a case holds a lock (flock) that ends with the process.

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

use super::{Case, Copies, Dataset, LabelSource};
use ctseg_base::atomic_file::{TEMPORARY, create_folder, parent_of, persisted, temporary_file};
use ctseg_base::cancel::unless_stopped;
use ctseg_base::limits::spawn::spawn_scoped;
use ctseg_base::progress::{Observer, Task};
use ctseg_base::temp_files::remove_leftovers;
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result, regular_file};

/// Enough to keep a file server busy, and not to drown it.
const THREADS: usize = 4;

/// Cases share so many locks: datasets may have many more cases than a folder should have files.
const LOCKS: usize = 64;

/// How long to wait for cases that other processes are copying.
const PAUSE: Duration = Duration::from_millis(20);

/// The dataset with the files of its training cases read from copies below `scratch`, which are made where they are
/// not there. Where that cannot be done (too little space, say) it warns, and what has no copy is read where it is.
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
    let done = Staging::begun(&dataset, scratch).and_then(|staging| {
        let task = observer.task("copying to scratch", staging.cases.len() as u64, "cases");
        staging.run(stop, task.as_ref())?;
        Ok(staging)
    });
    let staging = match done {
        Ok(staging) => staging,
        Err(stopped @ Error::Interrupted(_)) => return Err(stopped),
        Err(error) => {
            observer.warn(&format!("{error}; the data are read where they are"));
            return Ok(dataset);
        }
    };
    if let Some(problem) = staging.locked(&staging.problem).take() {
        observer.warn(&format!(
            "{problem}; what was not copied is read where it is"
        ));
    }
    let copies = std::mem::take(&mut *staging.locked(&staging.copies));
    observer.say(&format!(
        "scratch {}: {} of {}, {} of them ({:.2} GB) copied now in {:.0} s",
        staging.folder.display(),
        counted(copies.len(), "file"),
        counted(staging.cases.len(), "case"),
        staging.copied_files.load(Ordering::Relaxed),
        staging.copied_bytes.load(Ordering::Relaxed) as f64 / 1e9,
        started.elapsed().as_secs_f64()
    ));
    Ok(Dataset {
        copies: Copies::from(copies),
        ..dataset
    })
}

struct Staging {
    folder: PathBuf,
    /// For each case its files and where their copies belong.
    cases: Vec<Vec<(PathBuf, PathBuf)>>,
    copies: Mutex<HashMap<PathBuf, PathBuf>>,
    copied_files: AtomicU64,
    copied_bytes: AtomicU64,
    /// Why nothing more is copied.
    problem: Mutex<Option<Error>>,
}

impl Staging {
    /// Makes the folder, and sees whether there is room.
    fn begun(dataset: &Dataset, scratch: &Path) -> Result<Self> {
        let root = fs::canonicalize(&dataset.root).unwrap_or_else(|_| dataset.root.clone());
        let hash = hash_of(&root);
        let folder = scratch.join(format!("ctseg-{}-{hash}", getuid().as_raw()));
        own_folder(&folder)?;
        remove_leftovers(&folder)?;
        let cases = dataset.training_cases().into_iter().map(|case| {
            let files = files_of(&dataset.cases[case]).into_iter();
            let placed = files.map(|file| (file.clone(), place(&folder, &dataset.root, file)));
            placed.collect()
        });
        let staging = Self {
            cases: cases.collect(),
            folder,
            copies: Mutex::default(),
            copied_files: AtomicU64::new(0),
            copied_bytes: AtomicU64::new(0),
            problem: Mutex::new(None),
        };
        staging.check_room()?;
        Ok(staging)
    }

    fn check_room(&self) -> Result<()> {
        let all: BTreeSet<&(PathBuf, PathBuf)> = self.cases.iter().flatten().collect();
        let missing = all.into_iter().filter_map(|(file, copy)| {
            let file = fs::metadata(file).ok()?;
            (!is_copy(copy, &file)).then_some(file.len())
        });
        let needed = missing.sum::<u64>();
        // File systems that do not tell are taken for roomy.
        let Ok(known) = rustix::fs::statvfs(&self.folder) else {
            return Ok(());
        };
        // What other processes are copying is needed, and partly there.
        let free = known.f_bavail.saturating_mul(known.f_frsize) + begun_bytes(&self.folder);
        if needed <= free {
            return Ok(());
        }
        Err(Error::file(
            &self.folder,
            format!(
                "too little space: the dataset takes {:.2} GB more, {:.2} GB are free",
                needed as f64 / 1e9,
                free as f64 / 1e9
            ),
        ))
    }

    fn run(&self, stop: &AtomicBool, task: &dyn Task) -> Result<()> {
        let waiting: Mutex<VecDeque<usize>> = Mutex::new((0..self.cases.len()).collect());
        let copy = || self.copy_cases(&waiting, stop, task);
        std::thread::scope(|scope| {
            // This thread copies too: without others it is only slower.
            let others = (1..THREADS).filter_map(|_| spawn_scoped(scope, "copy", copy).ok());
            let others: Vec<_> = others.collect();
            copy()?;
            for thread in others {
                let ended = thread.join();
                ended.unwrap_or_else(|_| Err(Error::invalid("internal: a copy panicked")))?;
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
            unless_stopped(stop, || "the data were being copied to scratch".to_owned())?;
            let Some(case) = self.locked(waiting).pop_front() else {
                return Ok(());
            };
            match self.lock_of(case) {
                Ok(Some(_lock)) => self.copy_case(case),
                // Another process, or thread, copies it.
                Ok(None) => {
                    self.locked(waiting).push_back(case);
                    std::thread::sleep(PAUSE);
                    continue;
                }
                Err(error) => self.give_up(error),
            }
            task.advance(1);
        }
    }

    /// Makes the copies that are not there, until one cannot be made.
    fn copy_case(&self, case: usize) {
        for (file, copy) in &self.cases[case] {
            // Files that cannot be read are for the dataset's check to tell of.
            let Ok(metadata) = fs::metadata(file) else {
                continue;
            };
            if !is_copy(copy, &metadata) {
                if self.locked(&self.problem).is_some() {
                    continue;
                }
                if let Err(error) = self.copy(file, copy) {
                    self.give_up(error);
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
        dated.map_err(Error::io(copy, "date"))?;
        let after = fs::metadata(file).map_err(Error::io(file, "read"))?;
        if after.modified().ok() != Some(modified) || !is_copy(temporary.path(), &after) {
            return Err(Error::file(file, "was changed while it was copied"));
        }
        let folder = parent_of(copy);
        create_folder(folder)?;
        persisted(temporary, copy)
    }

    /// The right to copy a case; none while another has it.
    fn lock_of(&self, case: usize) -> Result<Option<File>> {
        let path = self.folder.join(format!("lock-{}", case % LOCKS));
        let file = regular_file::append_to(&path).map_err(Error::io(&path, "open"))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            // Where there are no locks several may make one copy: each makes it whole.
            _ => Ok(Some(file)),
        }
    }

    fn give_up(&self, error: Error) {
        self.locked(&self.problem).get_or_insert(error);
    }

    fn locked<'a, T>(&self, mutex: &'a Mutex<T>) -> MutexGuard<'a, T> {
        // No change leaves any of them half made, so a panic elsewhere spoils nothing.
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn files_of(case: &Case) -> Vec<&PathBuf> {
    let labels: Vec<&PathBuf> = match &case.labels {
        LabelSource::None => Vec::new(),
        LabelSource::Map(path) => vec![path],
        LabelSource::PerStructure(files) => files.iter().map(|(_, path)| path).collect(),
    };
    std::iter::once(&case.image).chain(labels).collect()
}

/// Where a file's copy belongs: as below the dataset's root, or in a folder for its own.
fn place(folder: &Path, root: &Path, file: &Path) -> PathBuf {
    let plain = |path: &Path| path.components().all(|c| matches!(c, Component::Normal(_)));
    match file.strip_prefix(root) {
        Ok(inside) if plain(inside) => folder.join("data").join(inside),
        _ => {
            let of = hash_of(&std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf()));
            let name = file.file_name().unwrap_or_default();
            folder.join("elsewhere").join(of).join(name)
        }
    }
}

fn hash_of(path: &Path) -> String {
    let hash = Sha256::digest(path.as_os_str().as_encoded_bytes());
    format!("{hash:x}")[..12].to_owned()
}

/// Whether there is a copy of the file of this length and time. Some scratch file systems keep whole seconds.
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

/// Bytes of copies that are being made.
fn begun_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let begun = entries.filter(|entry| {
        let name = entry.file_name();
        name.to_str()
            .is_some_and(|name| name.starts_with(TEMPORARY))
    });
    begun
        .filter_map(|entry| Some(entry.metadata().ok()?.len()))
        .sum()
}

/// Makes a folder that nobody else can read; on scratch others could have made it before, to give us their data.
fn own_folder(folder: &Path) -> Result<()> {
    let parent = parent_of(folder);
    create_folder(parent)?;
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        made => return made.map_err(Error::io(folder, "create the folder")),
    }
    let there = fs::symlink_metadata(folder).map_err(Error::io(folder, "look at"))?;
    if there.is_dir() && there.uid() == getuid().as_raw() {
        return Ok(());
    }
    Err(Error::file(
        folder,
        "belongs to somebody else, or is no folder; remove it or choose another --scratch",
    ))
}
