//! Folders: free space, and whether they are writable, checked by writing.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use serde_json::json;

use super::mounts::Mount;
use super::timeout::within;
use super::{Finding, State};
use ctseg_base::Error;
use ctseg_base::atomic_file::temporary_file;
use ctseg_base::text::bytes::decimal;

/// Storage that takes longer to write a small file counts as hanging.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Size of the file written and removed.
const PROBE_BYTES: usize = 64 << 10;

/// Below this, label maps of a few volumes fit, but checkpoints of a training may not.
const LOW_BYTES: u64 = 1_000_000_000;
/// Below this, nearly nothing fits.
const FULL_BYTES: u64 = 100_000_000;
const LOW_INODES: u64 = 1000;

/// A folder that ctseg uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Such as `runs`.
    pub what: &'static str,
    pub path: PathBuf,
    /// State if it is not writable.
    pub unless_written: State,
    /// Worst state if the disk is full.
    pub unless_room: State,
}

/// Facts about a folder and its file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The folder, or its nearest existing parent.
    pub folder: PathBuf,
    pub is_there: bool,
    pub free_bytes: Option<u64>,
    /// `None` if the file system has no fixed number of them.
    pub free_inodes: Option<u64>,
    pub mount: Option<Mount>,
    /// Result of writing a small file.
    pub written: Result<(), Refused>,
}

/// Why a file could not be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    Full,
    Quota,
    ReadOnly,
    Permission,
    Other(String),
}

impl Refused {
    fn from_io(error: &std::io::Error) -> Self {
        match (error.kind(), Errno::from_io_error(error)) {
            (ErrorKind::QuotaExceeded, _) | (_, Some(Errno::DQUOT)) => Self::Quota,
            (ErrorKind::StorageFull, _) => Self::Full,
            (ErrorKind::ReadOnlyFilesystem, _) => Self::ReadOnly,
            (ErrorKind::PermissionDenied, _) => Self::Permission,
            _ => Self::Other(error.to_string()),
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Full => "disk full".to_owned(),
            Self::Quota => "quota exceeded (EDQUOT)".to_owned(),
            Self::ReadOnly => "read-only file system".to_owned(),
            Self::Permission => "permission denied".to_owned(),
            Self::Other(words) => format!("not writable: {words}"),
        }
    }

    fn advice(&self, place: &Place) -> String {
        let elsewhere = elsewhere(place);
        match self {
            Self::Full => format!("free some space, or {elsewhere}"),
            Self::Quota => {
                format!(
                    "see 'quota -s' or 'lfs quota'; remove files, request a larger quota, or {elsewhere}"
                )
            }
            Self::ReadOnly => format!(
                "mount it read-write (in containers without ':ro' and readOnly), check 'dmesg' for a read-only remount \
                 after an error, or {elsewhere}"
            ),
            Self::Permission => {
                let (user, group) = own_ids();
                format!(
                    "running as user {user}, group {group}: give them write access, or {elsewhere}"
                )
            }
            Self::Other(_) => elsewhere,
        }
    }
}

/// Effective user and group of this process.
fn own_ids() -> (u32, u32) {
    (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    )
}

fn elsewhere(place: &Place) -> String {
    match place.what {
        "runs" => "use another folder (--runs or CTSEG_RUNS)".to_owned(),
        "model" => "use another folder (--model or CTSEG_MODEL)".to_owned(),
        "temporary" => "use another folder (TMPDIR)".to_owned(),
        _ => "use another working folder".to_owned(),
    }
}

/// Checks each place, with a timeout for hanging storage.
pub fn findings(places: &[Place]) -> Vec<Finding> {
    let checked = |place: &Place| {
        let path = place.path.clone();
        match within(TIMEOUT, move || Facts::of(&path)) {
            Some(facts) => finding(place, &facts),
            None => Finding::fault(
                &name(place),
                format!(
                    "{}: no response within {} s",
                    place.path.display(),
                    TIMEOUT.as_secs()
                ),
                format!(
                    "the storage hangs: find its server with 'mount' and contact its administrator, or {}",
                    elsewhere(place)
                ),
            ),
        }
    };
    places.iter().map(checked).collect()
}

fn name(place: &Place) -> String {
    format!("disk, {}", place.what)
}

impl Facts {
    fn of(path: &Path) -> Self {
        let folder = existing(path);
        let known = rustix::fs::statvfs(&folder).ok();
        let inodes = known.as_ref().filter(|known| known.f_files > 0);
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self {
            free_bytes: known
                .as_ref()
                .map(|known| known.f_bavail.saturating_mul(known.f_frsize)),
            free_inodes: inodes.map(|known| known.f_favail),
            mount: Mount::around(&folder, &mounts),
            written: match path.exists() && !path.is_dir() {
                true => Err(Refused::Other("not a folder".to_owned())),
                false => written(&folder),
            },
            is_there: path.exists(),
            folder,
        }
    }
}

/// `path`, or its nearest existing parent folder, without symbolic links.
fn existing(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let there = absolute.ancestors().find_map(|folder| {
        let folder = folder.canonicalize().ok()?;
        folder.is_dir().then_some(folder)
    });
    there.unwrap_or_else(|| PathBuf::from("/"))
}

fn written(folder: &Path) -> Result<(), Refused> {
    let mut file = temporary_file(folder).map_err(|error| match &error {
        Error::Io { cause, .. } => Refused::from_io(cause),
        other => Refused::Other(other.to_string()),
    })?;
    // Not zeros, which some storage does not allocate.
    let bytes: Vec<u8> = (0..PROBE_BYTES).map(|at| (at * 31 % 251) as u8).collect();
    let file = file.as_file_mut();
    let synced = file.write_all(&bytes).and_then(|()| file.sync_all());
    synced.map_err(|error| Refused::from_io(&error))
}

/// The finding for these facts.
pub fn finding(place: &Place, facts: &Facts) -> Finding {
    let check = name(place);
    let path = place.path.display();
    let there = match facts.is_there {
        true => format!("{path}"),
        false => format!("{path} (to be created in {})", facts.folder.display()),
    };
    let mount = facts.mount.as_ref();
    let on = mount.map_or_else(String::new, |mount| format!(" on {mount}"));
    let value = json!({
        "path": place.path.display().to_string(), "folder": facts.folder.display().to_string(), "free_bytes": facts.free_bytes,
        "free_inodes": facts.free_inodes, "is_writable": facts.written.is_ok(),
        "file_system": mount.map(|mount| &mount.kind), "source": mount.map(|mount| &mount.source),
    });
    let free = facts
        .free_bytes
        .map(|bytes| format!("{} free", decimal(bytes)));
    let finding = match (&facts.written, facts.free_bytes, facts.free_inodes) {
        (Err(Refused::Full), Some(bytes), Some(0)) if bytes > PROBE_BYTES as u64 => {
            let free = decimal(bytes);
            let found =
                format!("{there}{on}: no inodes left, no more files can be created ({free} free)");
            let advice = format!("remove many small files, or {}", elsewhere(place));
            Finding::fault(&check, found, advice).but(place.unless_room)
        }
        (Err(refused), _, _) => {
            let state = match refused {
                Refused::Full | Refused::Quota => place.unless_room,
                _ => place.unless_written,
            };
            let found = format!("{there}{on}: {}", refused.message());
            Finding::fault(&check, found, refused.advice(place)).but(state)
        }
        (Ok(()), Some(bytes), _) if bytes < LOW_BYTES => {
            let (state, word) = match bytes < FULL_BYTES {
                true => (State::Fault, "nearly full"),
                false => (State::Warning, "almost full"),
            };
            let found = format!("{there}{on}: {word}, {} free", decimal(bytes));
            let advice = format!("free some space, or {}", elsewhere(place));
            Finding::fault(&check, found, advice).but(state.min(place.unless_room))
        }
        (Ok(()), _, Some(inodes)) if inodes < LOW_INODES => Finding::warning(
            &check,
            format!("{there}{on}: only {inodes} more files can be created"),
            format!("remove many small files, or {}", elsewhere(place)),
        ),
        (Ok(()), _, _) => {
            let free = free.unwrap_or_else(|| "writable".to_owned());
            Finding::ok(&check, format!("{there}{on}: {free}"))
        }
    };
    finding.with(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(unless_written: State) -> Place {
        Place {
            what: "runs",
            path: PathBuf::from("/"),
            unless_written,
            unless_room: State::Fault,
        }
    }

    fn facts(free_bytes: u64, written: Result<(), Refused>) -> Facts {
        Facts {
            folder: PathBuf::from("/"),
            is_there: true,
            free_bytes: Some(free_bytes),
            free_inodes: Some(1 << 20),
            mount: None,
            written,
        }
    }

    #[test]
    fn low_space_and_errors_are_distinguished() {
        const GB: u64 = 1_000_000_000;
        for (free, written, state, words) in [
            (2 * GB, Ok(()), State::Ok, "2.0 GB free"),
            (
                GB - 1,
                Ok(()),
                State::Warning,
                "almost full, 1000.0 MB free",
            ),
            (
                99_000_000,
                Ok(()),
                State::Fault,
                "nearly full, 99.0 MB free",
            ),
            (0, Err(Refused::Full), State::Fault, "disk full"),
            (
                9 * GB,
                Err(Refused::Quota),
                State::Fault,
                "quota exceeded (EDQUOT)",
            ),
            (9 * GB, Err(Refused::ReadOnly), State::Note, "read-only"),
            (
                9 * GB,
                Err(Refused::Permission),
                State::Note,
                "permission denied",
            ),
        ] {
            let found = finding(&place(State::Note), &facts(free, written));
            assert_eq!(found.state, state, "{found:?}");
            assert!(found.found.contains(words), "{found:?}");
            assert_eq!(found.advice.is_some(), state != State::Ok, "{found:?}");
        }
        let refused = facts(9 * GB, Err(Refused::Permission));
        assert_eq!(finding(&place(State::Fault), &refused).state, State::Fault);
    }

    #[test]
    fn inodes_run_out_before_bytes_do() {
        let mut none = facts(5_000_000_000, Err(Refused::Full));
        none.free_inodes = Some(0);
        let found = finding(&place(State::Fault), &none);
        assert!(found.found.contains("no inodes left"), "{found:?}");
        let mut few = facts(5_000_000_000, Ok(()));
        few.free_inodes = Some(12);
        assert_eq!(finding(&place(State::Fault), &few).state, State::Warning);
    }

    #[test]
    fn system_errors_are_classified_by_errno() {
        let of = |errno: Errno| Refused::from_io(&errno.into());
        assert_eq!(of(Errno::DQUOT), Refused::Quota);
        assert_eq!(of(Errno::NOSPC), Refused::Full);
        assert_eq!(of(Errno::ROFS), Refused::ReadOnly);
        assert_eq!(of(Errno::ACCESS), Refused::Permission);
        assert!(matches!(of(Errno::IO), Refused::Other(_)));
    }
}
