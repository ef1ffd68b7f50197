//! Temporary files and folders; removal of those that killed processes left behind.

use std::fs;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use crate::atomic_file::{TEMP_PREFIX, create_folder, temporary_file, temporary_names};
use crate::process::id::ProcessId;
use crate::{Error, Result};

/// Age after which a temporary file is stale, wherever its process may run.
const STALE_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Depth of recursion, more than any folder of ctseg has.
const MAX_DEPTH: usize = 8;

/// A temporary file or folder.
struct Temporary {
    path: PathBuf,
    /// The process in its name.
    process: Option<ProcessId>,
    is_folder: bool,
}

/// A temporary folder in `parent`, to be renamed when complete; its permissions follow the umask. Stale temporary files
/// in `parent` are removed.
pub fn temporary_folder(parent: &Path) -> Result<TempDir> {
    create_folder(parent)?;
    let _ = remove_stale_temp_files(parent); // they do no harm
    temporary_names(0o777)
        .tempdir_in(parent)
        .map_err(Error::io(parent, "write into the folder"))
}

/// [`remove_stale_temp_files`] in `folder` and all readable folders below it; links are not followed.
pub fn remove_stale_temp_files_below(folder: &Path) {
    remove_stale_below(folder, MAX_DEPTH);
}

fn remove_stale_below(folder: &Path, depth: usize) {
    let _ = remove_stale_temp_files(folder);
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    for entry in folders.filter(|_| depth > 0) {
        remove_stale_below(&entry.path(), depth - 1);
    }
}

/// Removes temporary files and folders in `folder` (not below it) whose processes have ended. Those of processes on
/// other machines are removed after a day, by the clock of the file system. Returns the number removed.
///
/// # Errors
/// The folder cannot be read or written.
pub fn remove_stale_temp_files(folder: &Path) -> Result<usize> {
    let mut now = None;
    let mut removed = 0;
    for temporary in temporaries(folder)? {
        let path = temporary.path;
        // Another process may have removed it.
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            continue;
        };
        let process = temporary.process;
        let alive = process.and_then(|process| process.is_alive(metadata.uid()));
        let ended = match alive {
            Some(alive) => !alive,
            None => {
                let now = match now {
                    Some(now) => now,
                    None => *now.insert(file_system_time(folder)?),
                };
                let written = last_written(&path, &metadata, MAX_DEPTH);
                let age = written.and_then(|at| now.duration_since(at).ok());
                age.is_some_and(|age| age > STALE_AFTER)
            }
        };
        let remove = || match temporary.is_folder {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        if ended && remove().is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}

/// When a file, or anything in a folder, was last written; `None` if unknown.
fn last_written(path: &Path, metadata: &Metadata, depth: usize) -> Option<SystemTime> {
    let mut last = metadata.modified().ok()?;
    if metadata.is_dir() && depth > 0 {
        for entry in fs::read_dir(path).ok()? {
            let entry = entry.ok()?;
            last = last.max(last_written(
                &entry.path(),
                &entry.metadata().ok()?,
                depth - 1,
            )?);
        }
    }
    Some(last)
}

/// Removes this process's temporary files in `folder`, before it exits without finishing them.
pub fn remove_own_temp_files(folder: &Path) {
    for temporary in temporaries(folder).unwrap_or_default() {
        if !temporary.is_folder && temporary.process.as_ref() == Some(ProcessId::current()) {
            let _ = fs::remove_file(temporary.path); // a later process removes what is left
        }
    }
}

/// The current time of the file system of `folder`, on shared storage the file server's.
pub fn file_system_time(folder: &Path) -> Result<SystemTime> {
    let probe = temporary_file(folder)?;
    probe
        .as_file()
        .metadata()
        .and_then(|metadata| metadata.modified())
        .map_err(Error::io(folder, "get the time of a file in"))
}

/// Temporary files, and temporary folders with a process in their name; none if the folder does not exist.
fn temporaries(folder: &Path) -> Result<Vec<Temporary>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(found),
        entries => entries.map_err(Error::io(folder, "read the folder"))?,
    };
    for entry in entries {
        let entry = entry.map_err(Error::io(folder, "read the folder"))?;
        let name = entry.file_name();
        let Some(rest) = name
            .to_str()
            .and_then(|name| name.strip_prefix(TEMP_PREFIX))
        else {
            continue;
        };
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        // With an extension it is a model that an earlier version moved away, possibly the only copy.
        let (process, has_no_extension) = match rest.rsplit_once('-') {
            Some((process, end)) => (ProcessId::parse(process), !end.contains('.')),
            None => (None, true),
        };
        let is_folder = kind.is_dir() && process.is_some() && has_no_extension;
        if kind.is_file() || is_folder {
            found.push(Temporary {
                path: entry.path(),
                process,
                is_folder,
            });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn touched(path: PathBuf, age: Duration) -> PathBuf {
        let file = File::create(&path).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
        path
    }

    fn assert_only(kept: &[PathBuf], removed: &[PathBuf]) {
        assert!(kept.iter().all(|path| path.exists()), "{kept:?}");
        assert!(removed.iter().all(|path| !path.exists()), "{removed:?}");
    }

    #[test]
    fn only_stale_files_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: String| folder.path().join(name);
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let own = ProcessId::current().to_string();
        let machine = own.split('-').next().unwrap();
        let (day, hour) = (Duration::from_secs(90_000), Duration::from_secs(3600));
        let neighbour = temporary_file(folder.path()).unwrap();
        let kept_paths = [
            neighbour.path().to_path_buf(),
            touched(at(".ctseg-76543210-1-2-abcdef".to_owned()), hour),
            touched(at(".ctseg-abcdef".to_owned()), hour),
            touched(at("case.nii.gz".to_owned()), 2 * day),
        ];
        let stale_paths = [
            touched(
                at(format!(".ctseg-{machine}-{}-1-abcdef", child.id())),
                hour,
            ),
            touched(at(".ctseg-76543210-1-2-abcdeg".to_owned()), day),
            touched(at(".ctseg-abcdeg".to_owned()), day),
        ];
        fs::create_dir(at(".ctseg-previous".to_owned())).unwrap();
        assert_eq!(
            remove_stale_temp_files(folder.path()).unwrap(),
            stale_paths.len()
        );
        assert_only(&kept_paths, &stale_paths);
        assert_eq!(remove_stale_temp_files(&at("none".to_owned())).unwrap(), 0);
        assert!(at(".ctseg-previous".to_owned()).exists());
        remove_own_temp_files(folder.path());
        assert!(!kept_paths[0].exists() && kept_paths[1].exists());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn folders_of_ended_processes_are_removed_with_their_content() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let own = ProcessId::current().to_string();
        let machine = own.split('-').next().unwrap();
        let dead = format!(".ctseg-{machine}-{}-1", child.id());
        let own = temporary_folder(folder.path()).unwrap();
        let create = |name: &str, age: Duration| {
            fs::create_dir_all(at(name).join("deep")).unwrap();
            touched(at(name).join("deep/file"), age);
            let old = SystemTime::now() - 2 * STALE_AFTER;
            for folder in [at(name).join("deep"), at(name)] {
                File::open(folder).unwrap().set_modified(old).unwrap();
            }
            at(name)
        };
        let (day, hour) = (Duration::from_secs(90_000), Duration::from_secs(3600));
        let kept_paths = [
            own.path().to_path_buf(),
            create(".ctseg-76543210-1-2-abcdef", hour),
            create(&format!("{dead}-abcdef.replaced"), day),
            create(".ctseg-old-model", day),
            create("kept", day),
        ];
        let stale_paths = [
            create(&format!("{dead}-abcdef"), hour),
            create(".ctseg-76543210-1-2-abcdeg", day),
            touched(at("kept").join(format!("{dead}-abcdeh")), hour),
        ];
        remove_stale_temp_files_below(folder.path());
        assert_only(&kept_paths, &stale_paths);
        create(&format!("{dead}-abcdei"), hour);
        drop(temporary_folder(folder.path()).unwrap());
        assert!(!at(&format!("{dead}-abcdei")).exists());
    }
}
