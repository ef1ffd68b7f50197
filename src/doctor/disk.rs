//! Folders: room, and whether they can be written to, found out by writing.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use serde_json::json;

use super::mounts::Mount;
use super::patience::within;
use super::{Finding, State, decimal};
use ctseg_base::Error;
use ctseg_base::atomic_file::temporary_file;

/// Storage that takes longer to write a small file hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is written and removed.
const PROBE_BYTES: usize = 64 << 10;

/// Label maps of a few volumes fit, a training's checkpoints may not.
const LITTLE_BYTES: u64 = 1_000_000_000;
/// Next to nothing fits.
const FULL_BYTES: u64 = 100_000_000;
const LITTLE_INODES: u64 = 1000;

/// A folder that ctseg uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Such as `runs`.
    pub what: &'static str,
    pub path: PathBuf,
    /// What it is if it cannot be written to.
    pub unless_written: State,
    /// What it is, at most, if there is no room.
    pub unless_room: State,
}

/// What a folder's file system says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The folder, or the one around it that is there.
    pub folder: PathBuf,
    pub is_there: bool,
    pub free_bytes: Option<u64>,
    /// None where the file system has no fixed number of them.
    pub free_inodes: Option<u64>,
    pub mount: Option<Mount>,
    /// What came of writing a small file.
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

    fn words(&self) -> String {
        match self {
            Self::Full => "full, nothing more can be written".to_owned(),
            Self::Quota => "the quota is used up (EDQUOT), nothing more can be written".to_owned(),
            Self::ReadOnly => "the file system is read-only".to_owned(),
            Self::Permission => "this user may not write".to_owned(),
            Self::Other(words) => format!("cannot be written to: {words}"),
        }
    }

    fn advice(&self, place: &Place) -> String {
        let elsewhere = elsewhere(place);
        match self {
            Self::Full => format!("make room, or {elsewhere}"),
            Self::Quota => {
                format!(
                    "'quota -s' or 'lfs quota' tells whose it is; remove files, ask for more, or {elsewhere}"
                )
            }
            Self::ReadOnly => format!(
                "mount it for writing (in containers without ':ro' and readOnly), find out from 'dmesg' whether the \
                 kernel has made it so after an error, or {elsewhere}"
            ),
            Self::Permission => {
                let (user, group) = own_ids();
                format!(
                    "this is user {user}, group {group}: have the folder made theirs, or {elsewhere}"
                )
            }
            Self::Other(_) => elsewhere,
        }
    }
}

/// User and group that this process acts as.
fn own_ids() -> (u32, u32) {
    (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    )
}

fn elsewhere(place: &Place) -> String {
    match place.what {
        "runs" => "name another folder by --runs or CTSEG_RUNS".to_owned(),
        "model" => "name another folder by --model or CTSEG_MODEL".to_owned(),
        "temporary" => "name another folder by TMPDIR".to_owned(),
        _ => "work in another folder".to_owned(),
    }
}

/// Looks at each place, and gives up on those that hang.
pub fn findings(places: &[Place]) -> Vec<Finding> {
    let looked_at = |place: &Place| {
        let path = place.path.clone();
        match within(PATIENCE, move || Facts::of(&path)) {
            Some(facts) => judged(place, &facts),
            None => Finding::fault(
                &name(place),
                format!(
                    "{}: does not answer within {} s",
                    place.path.display(),
                    PATIENCE.as_secs()
                ),
                format!(
                    "the storage hangs: see 'mount' for its server, ask who runs it, or {}",
                    elsewhere(place)
                ),
            ),
        }
    };
    places.iter().map(looked_at).collect()
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
                true => Err(Refused::Other("it is no folder".to_owned())),
                false => written(&folder),
            },
            is_there: path.exists(),
            folder,
        }
    }
}

/// `path`, or the nearest folder around it that is there, without links.
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
    // No zeros: some storage takes any number of these.
    let bytes: Vec<u8> = (0..PROBE_BYTES).map(|at| (at * 31 % 251) as u8).collect();
    let file = file.as_file_mut();
    let synced = file.write_all(&bytes).and_then(|()| file.sync_all());
    synced.map_err(|error| Refused::from_io(&error))
}

/// What the facts mean.
pub fn judged(place: &Place, facts: &Facts) -> Finding {
    let check = name(place);
    let path = place.path.display();
    let there = match facts.is_there {
        true => format!("{path}"),
        false => format!("{path} (to be made in {})", facts.folder.display()),
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
                format!("{there}{on}: no inode is left, no more files can be made ({free} free)");
            let advice = format!("remove many small files, or {}", elsewhere(place));
            Finding::fault(&check, found, advice).but(place.unless_room)
        }
        (Err(refused), _, _) => {
            let state = match refused {
                Refused::Full | Refused::Quota => place.unless_room,
                _ => place.unless_written,
            };
            let found = format!("{there}{on}: {}", refused.words());
            Finding::fault(&check, found, refused.advice(place)).but(state)
        }
        (Ok(()), Some(bytes), _) if bytes < LITTLE_BYTES => {
            let (state, word) = match bytes < FULL_BYTES {
                true => (State::Fault, "nearly full"),
                false => (State::Warning, "almost full"),
            };
            let found = format!("{there}{on}: {word}, {} free", decimal(bytes));
            let advice = format!("make room, or {}", elsewhere(place));
            Finding::fault(&check, found, advice).but(state.min(place.unless_room))
        }
        (Ok(()), _, Some(inodes)) if inodes < LITTLE_INODES => Finding::warning(
            &check,
            format!("{there}{on}: {inodes} more files can be made"),
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
    fn room_and_refusals_are_told_apart() {
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
            (0, Err(Refused::Full), State::Fault, "full, nothing"),
            (
                9 * GB,
                Err(Refused::Quota),
                State::Fault,
                "quota is used up (EDQUOT)",
            ),
            (9 * GB, Err(Refused::ReadOnly), State::Note, "read-only"),
            (
                9 * GB,
                Err(Refused::Permission),
                State::Note,
                "may not write",
            ),
        ] {
            let found = judged(&place(State::Note), &facts(free, written));
            assert_eq!(found.state, state, "{found:?}");
            assert!(found.found.contains(words), "{found:?}");
            assert_eq!(found.advice.is_some(), state != State::Ok, "{found:?}");
        }
        let refused = facts(9 * GB, Err(Refused::Permission));
        assert_eq!(judged(&place(State::Fault), &refused).state, State::Fault);
    }

    #[test]
    fn inodes_run_out_before_bytes_do() {
        let mut none = facts(5_000_000_000, Err(Refused::Full));
        none.free_inodes = Some(0);
        let found = judged(&place(State::Fault), &none);
        assert!(found.found.contains("no inode is left"), "{found:?}");
        let mut few = facts(5_000_000_000, Ok(()));
        few.free_inodes = Some(12);
        assert_eq!(judged(&place(State::Fault), &few).state, State::Warning);
    }

    #[test]
    fn errors_of_the_system_are_known_by_their_numbers() {
        let of = |errno: Errno| Refused::from_io(&errno.into());
        assert_eq!(of(Errno::DQUOT), Refused::Quota);
        assert_eq!(of(Errno::NOSPC), Refused::Full);
        assert_eq!(of(Errno::ROFS), Refused::ReadOnly);
        assert_eq!(of(Errno::ACCESS), Refused::Permission);
        assert!(matches!(of(Errno::IO), Refused::Other(_)));
    }
}
