//! Temporary files of processes that were killed: found, and removed where nobody can still need them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::atomic_file::{TEMPORARY, temporary_file};
use crate::process::id::ProcessId;
use crate::{Error, Result};

/// A temporary file that nobody has written to for so long is nobody's, wherever its process may run.
const NOBODYS_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Removes temporary files in `folder` (not below it) whose processes have ended; those of a process on another
/// machine, which cannot be asked, after a day by the clock of the file system. How many there were.
///
/// # Errors
/// The folder cannot be read or written.
pub fn remove_leftovers(folder: &Path) -> Result<usize> {
    let mut now = None;
    let mut removed = 0;
    for (path, process) in temporary_files(folder)? {
        // Gone already: another process cleans up too.
        let Ok(metadata) = fs::metadata(&path) else {
            continue;
        };
        let alive = process.and_then(|process| process.is_alive(metadata.uid()));
        let ended = match alive {
            Some(alive) => !alive,
            None => {
                let now = match now {
                    Some(now) => now,
                    None => *now.insert(file_system_time(folder)?),
                };
                let age = metadata
                    .modified()
                    .ok()
                    .and_then(|at| now.duration_since(at).ok());
                age.is_some_and(|age| age > NOBODYS_AFTER)
            }
        };
        if ended && fs::remove_file(&path).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}

/// Removes the temporary files of this very process in `folder`, before it leaves without finishing them.
pub fn remove_own_leftovers(folder: &Path) {
    for (path, process) in temporary_files(folder).unwrap_or_default() {
        if process.as_ref() == Some(ProcessId::own()) {
            let _ = fs::remove_file(path); // whoever comes next removes what is left
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

/// Temporary files and the processes that their names tell.
fn temporary_files(folder: &Path) -> Result<Vec<(PathBuf, Option<ProcessId>)>> {
    let entries = fs::read_dir(folder).map_err(Error::io(folder, "read the folder"))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io(folder, "read the folder"))?;
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(TEMPORARY)) else {
            continue;
        };
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            let process = rest.rsplit_once('-');
            let process = process.and_then(|(process, _)| ProcessId::parse(process));
            found.push((entry.path(), process));
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
        std::fs::create_dir(at(".ctseg-previous".to_owned())).unwrap();
        assert_eq!(remove_leftovers(folder.path()).unwrap(), goes.len());
        assert!(stays.iter().all(|path| path.exists()), "{stays:?}");
        assert!(goes.iter().all(|path| !path.exists()), "{goes:?}");
        assert!(at(".ctseg-previous".to_owned()).exists());
        remove_own_leftovers(folder.path());
        assert!(!stays[0].exists() && stays[1].exists());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
