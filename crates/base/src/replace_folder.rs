//! Replaces a folder, such as a model's, by a finished one. At any moment the old or the new folder is in place or can
//! be restored.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::atomic_file::{TEMP_PREFIX, ensure_not_file, parent_of, sync_folder, sync_tree};
use crate::{Error, Result};

/// Attempts, since other processes may restore or replace the folder between two steps.
const MAX_TRIES: usize = 20;

const PAUSE: Duration = Duration::from_millis(50);

/// Replaces `path` by `fresh`: in one step if the file system can exchange two folders, otherwise by renaming the old
/// folder, from where [`restore`] recovers it after a kill. All is synced before the old folder is removed.
///
/// # Errors
/// A file at `path`; folders that cannot be synced or renamed. One of the folders is then at `path`, or the old one can
/// be restored.
pub fn replace_folder(fresh: TempDir, path: &Path) -> Result<()> {
    ensure_not_file(path)?;
    restore(path)?;
    sync_tree(fresh.path())?;
    if exchange(fresh.path(), path) {
        if let Err(error) = sync_folder(parent_of(path)) {
            let _ = fresh.keep(); // the old one, which a power cut may bring back
            return Err(error);
        }
        remove_stale(path);
        return Ok(()); // the old one is removed with `fresh`
    }
    let aside = aside_of(path).ok_or_else(|| {
        Error::file(
            path,
            "cannot be replaced; expected a folder inside another folder",
        )
    })?;
    for _ in 0..MAX_TRIES {
        remove_stale(path);
        match swap_in(fresh.path(), path, &aside) {
            Ok(()) => {
                let _ = fresh.keep(); // it has been renamed
                sync_folder(parent_of(path))?;
                remove_stale(path);
                return Ok(());
            }
            Err(Error::Io { cause, .. }) if is_taken(&cause) => std::thread::sleep(PAUSE),
            Err(error) => return Err(error),
        }
    }
    Err(replaced_by_others(path))
}

/// Renames `path`, if it exists, to `aside`, and `fresh` to `path`.
fn swap_in(fresh: &Path, path: &Path, aside: &Path) -> Result<()> {
    match fs::rename(path, aside) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(Error::io(path, "move the old folder away from")(error));
        }
        _ => {}
    }
    fs::rename(fresh, path).map_err(|error| {
        let _ = fs::rename(aside, path); // otherwise `restore` does
        Error::io(path, "rename the finished folder to")(error)
    })
}

/// Restores the folder at `path` that a killed process moved away and did not replace.
///
/// # Errors
/// It cannot be renamed, for example without write permission; the message names its location.
pub fn restore(path: &Path) -> Result<()> {
    let Some(aside) = aside_of(path) else {
        return Ok(());
    };
    let mut problem = None;
    for _ in 0..MAX_TRIES {
        if path.symlink_metadata().is_ok() || !aside.is_dir() {
            return Ok(());
        }
        match fs::rename(&aside, path) {
            Ok(()) => return sync_folder(parent_of(path)),
            Err(error) => problem = Some(error),
        }
        std::thread::sleep(PAUSE); // another process may be restoring it
    }
    let problem = problem.map_or_else(String::new, |error| format!(" ({error})"));
    Err(Error::file(
        path,
        format!(
            "was moved away by a process that was killed and cannot be restored{problem}; rename {} to this path",
            aside.display()
        ),
    ))
}

/// Runs `read` on the folder at `path`, which other processes may replace meanwhile: the folder is restored first if
/// needed, and read again if it was replaced.
///
/// # Errors
/// Those of `read` and [`restore`]; a folder that is replaced repeatedly.
pub fn read_consistent<T>(path: &Path, read: impl Fn() -> Result<T>) -> Result<T> {
    for _ in 0..MAX_TRIES {
        restore(path)?;
        let before = identity(path);
        let found = read();
        let is_aside = aside_of(path).is_some_and(|aside| aside.is_dir());
        if identity(path) == before && (before.is_some() || !is_aside) {
            return found;
        }
        std::thread::sleep(PAUSE);
    }
    Err(replaced_by_others(path))
}

/// Device and inode of the folder; `None` if missing.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

fn replaced_by_others(path: &Path) -> Error {
    Error::file(
        path,
        "is being replaced by other processes; retry when they are done",
    )
}

/// Removes the old folder after `path` was replaced.
fn remove_stale(path: &Path) {
    let aside = aside_of(path).filter(|aside| aside.is_dir() && path.exists());
    if let Some(aside) = aside {
        let _ = fs::remove_dir_all(aside); // the next replacement tries again
    }
}

/// Where the old folder of `path` is moved: beside it, under a name derived from it.
fn aside_of(path: &Path) -> Option<PathBuf> {
    let mut name = std::ffi::OsString::from(format!("{TEMP_PREFIX}old-"));
    name.push(path.file_name()?);
    Some(parent_of(path).join(name))
}

fn is_taken(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists
    )
}

#[cfg(target_os = "linux")]
fn exchange(a: &Path, b: &Path) -> bool {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn exchange(_: &Path, _: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temp_files::temporary_folder;

    fn fresh(folder: &Path, text: &str) -> TempDir {
        let fresh = temporary_folder(folder).unwrap();
        fs::write(fresh.path().join("file"), text).unwrap();
        fresh
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = folder.read_dir().unwrap();
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        entries
            .map(|entry| name(entry).into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_folder_is_replaced_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        for text in ["one", "two"] {
            replace_folder(fresh(folder.path(), text), &path).unwrap();
            assert_eq!(fs::read_to_string(path.join("file")).unwrap(), text);
            assert_eq!(names(folder.path()), ["model"]);
        }
        fs::write(folder.path().join("taken"), "").unwrap();
        let taken = folder.path().join("taken");
        assert!(replace_folder(fresh(folder.path(), "three"), &taken).is_err());
        assert_eq!(names(folder.path()).len(), 2);
    }

    #[test]
    fn an_old_folder_is_restored_unless_it_was_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        let aside = folder.path().join(".ctseg-old-model");
        restore(&path).unwrap();
        assert!(!path.exists());
        replace_folder(fresh(folder.path(), "one"), &path).unwrap();
        fs::rename(&path, &aside).unwrap();
        restore(&path).unwrap();
        assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "one");
        // Replaced, and the process killed before it removed the old one.
        fs::create_dir(&aside).unwrap();
        fs::write(aside.join("file"), "older").unwrap();
        restore(&path).unwrap();
        assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "one");
        replace_folder(fresh(folder.path(), "two"), &path).unwrap();
        assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "two");
        assert_eq!(names(folder.path()), ["model"]);
    }

    #[test]
    fn a_folder_replaced_while_read_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        let aside = folder.path().join(".ctseg-old-model");
        replace_folder(fresh(folder.path(), "one"), &path).unwrap();
        let read = |meanwhile: &dyn Fn()| {
            let times = std::cell::Cell::new(0);
            let found = read_consistent(&path, || {
                let text = fs::read_to_string(path.join("file"));
                times.set(times.get() + 1);
                if times.get() == 1 {
                    meanwhile();
                }
                text.map_err(Error::io(&path, "read"))
            });
            (found.unwrap(), times.get())
        };
        assert_eq!(read(&|| {}), ("one".to_owned(), 1));
        let replaced = || replace_folder(fresh(folder.path(), "two"), &path).unwrap();
        assert_eq!(read(&replaced), ("two".to_owned(), 2));
        let set_aside = || fs::rename(&path, &aside).unwrap();
        assert_eq!(read(&set_aside), ("two".to_owned(), 2));
        fs::remove_dir_all(&path).unwrap();
        let missing = read_consistent(&path, || fs::read(&path).map_err(Error::io(&path, "read")));
        assert!(matches!(missing, Err(Error::Io { .. })));
    }
}
