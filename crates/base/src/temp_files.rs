//! Temporary files and folders of processes that were killed: found, and removed where nobody can still need them.

use std::fs;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use crate::atomic_file::{TEMPORARY, create_folder, temporary_file, temporary_names};
use crate::process::id::ProcessId;
use crate::{Error, Result};

/// What nobody has written to for so long is nobody's, wherever its process may run.
const NOBODYS_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Deeper than any folder of ours.
const DEEPEST: usize = 8;

/// A temporary file or folder.
struct Temporary {
    path: PathBuf,
    /// Which its name tells.
    process: Option<ProcessId>,
    is_folder: bool,
}

/// A temporary folder in `parent`, to be renamed when it is whole; its permissions follow the umask. What processes left
/// in `parent` that were killed is removed.
pub fn temporary_folder(parent: &Path) -> Result<TempDir> {
    create_folder(parent)?;
    let _ = remove_leftovers(parent); // a folder that is in nobody's way
    temporary_names(0o777)
        .tempdir_in(parent)
        .map_err(Error::io(parent, "write into the folder"))
}

/// [`remove_leftovers`] in `folder` and in all folders below it, as far as they can be read; links are not followed.
pub fn remove_leftovers_below(folder: &Path) {
    removed_below(folder, DEEPEST);
}

fn removed_below(folder: &Path, depth: usize) {
    let _ = remove_leftovers(folder);
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    for entry in folders.filter(|_| depth > 0) {
        removed_below(&entry.path(), depth - 1);
    }
}

/// Removes temporary files and folders in `folder` (not below it) whose processes have ended; those of a process on
/// another machine, which cannot be asked, after a day by the clock of the file system. How many there were.
///
/// # Errors
/// The folder cannot be read or written.
pub fn remove_leftovers(folder: &Path) -> Result<usize> {
    let mut now = None;
    let mut removed = 0;
    for temporary in temporaries(folder)? {
        let path = temporary.path;
        // Gone already: another process cleans up too.
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
                let written = last_written(&path, &metadata, DEEPEST);
                let age = written.and_then(|at| now.duration_since(at).ok());
                age.is_some_and(|age| age > NOBODYS_AFTER)
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

/// When a file, or anything in a folder, was last written; none where the file system does not tell.
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

/// Removes the temporary files of this very process in `folder`, before it leaves without finishing them.
pub fn remove_own_leftovers(folder: &Path) {
    for temporary in temporaries(folder).unwrap_or_default() {
        if !temporary.is_folder && temporary.process.as_ref() == Some(ProcessId::own()) {
            let _ = fs::remove_file(temporary.path); // whoever comes next removes what is left
        }
    }
}

/// The time that the file system of `folder` gives to files, which on shared storage is another machine's.
pub fn file_system_time(folder: &Path) -> Result<SystemTime> {
    let probe = temporary_file(folder)?;
    probe
        .as_file()
        .metadata()
        .and_then(|metadata| metadata.modified())
        .map_err(Error::io(folder, "ask for the time of a file in"))
}

/// Temporary files, and temporary folders whose names tell a process; none where there is no such folder yet.
fn temporaries(folder: &Path) -> Result<Vec<Temporary>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(found),
        entries => entries.map_err(Error::io(folder, "read the folder"))?,
    };
    for entry in entries {
        let entry = entry.map_err(Error::io(folder, "read the folder"))?;
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(TEMPORARY)) else {
            continue;
        };
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        // With an ending it is a model that an earlier version set aside, which may be the only one.
        let (process, is_made_up) = match rest.rsplit_once('-') {
            Some((process, end)) => (ProcessId::parse(process), !end.contains('.')),
            None => (None, true),
        };
        let is_folder = kind.is_dir() && process.is_some() && is_made_up;
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

    #[test]
    fn only_what_nobody_needs_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: String| folder.path().join(name);
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let own = ProcessId::own().to_string();
        let machine = own.split('-').next().unwrap();
        let (day, hour) = (Duration::from_secs(90_000), Duration::from_secs(3600));
        let neighbour = temporary_file(folder.path()).unwrap();
        let stays = [
            neighbour.path().to_path_buf(),
            touched(at(".ctseg-76543210-1-2-abcdef".to_owned()), hour),
            touched(at(".ctseg-abcdef".to_owned()), hour),
            touched(at("case.nii.gz".to_owned()), 2 * day),
        ];
        let goes = [
            touched(
                at(format!(".ctseg-{machine}-{}-1-abcdef", child.id())),
                hour,
            ),
            touched(at(".ctseg-76543210-1-2-abcdeg".to_owned()), day),
            touched(at(".ctseg-abcdeg".to_owned()), day),
        ];
        fs::create_dir(at(".ctseg-previous".to_owned())).unwrap();
        assert_eq!(remove_leftovers(folder.path()).unwrap(), goes.len());
        assert_eq!(remove_leftovers(&at("none".to_owned())).unwrap(), 0);
        assert!(stays.iter().all(|path| path.exists()), "{stays:?}");
        assert!(goes.iter().all(|path| !path.exists()), "{goes:?}");
        assert!(at(".ctseg-previous".to_owned()).exists());
        remove_own_leftovers(folder.path());
        assert!(!stays[0].exists() && stays[1].exists());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn folders_of_processes_that_ended_go_with_all_that_is_in_them() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let own = ProcessId::own().to_string();
        let machine = own.split('-').next().unwrap();
        let dead = format!(".ctseg-{machine}-{}-1", child.id());
        let own = temporary_folder(folder.path()).unwrap();
        let made = |name: &str, age: Duration| {
            fs::create_dir_all(at(name).join("deep")).unwrap();
            touched(at(name).join("deep/file"), age);
            let old = SystemTime::now() - 2 * NOBODYS_AFTER;
            for folder in [at(name).join("deep"), at(name)] {
                File::open(folder).unwrap().set_modified(old).unwrap();
            }
            at(name)
        };
        let (day, hour) = (Duration::from_secs(90_000), Duration::from_secs(3600));
        let stays = [
            own.path().to_path_buf(),
            made(".ctseg-76543210-1-2-abcdef", hour),
            made(&format!("{dead}-abcdef.replaced"), day),
            made(".ctseg-old-model", day),
            made("kept", day),
        ];
        let goes = [
            made(&format!("{dead}-abcdef"), hour),
            made(".ctseg-76543210-1-2-abcdeg", day),
            touched(at("kept").join(format!("{dead}-abcdeh")), hour),
        ];
        remove_leftovers_below(folder.path());
        assert!(stays.iter().all(|path| path.exists()), "{stays:?}");
        assert!(goes.iter().all(|path| !path.exists()), "{goes:?}");
        made(&format!("{dead}-abcdei"), hour);
        drop(temporary_folder(folder.path()).unwrap());
        assert!(!at(&format!("{dead}-abcdei")).exists());
    }
}
