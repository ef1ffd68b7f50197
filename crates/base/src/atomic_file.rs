//! Atomic writes: no partial file ever has its final name.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::LazyLock;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};
use tempfile::NamedTempFile;

use crate::process::id::ProcessId;
use crate::{Error, Result, regular_file};

/// Prefix of temporary names, followed by the ID of the writing process, so that files of killed processes can be
/// recognised and removed, see [`crate::temp_files`].
pub const TEMP_PREFIX: &str = ".ctseg-";

static OWN_TEMP_PREFIX: LazyLock<String> =
    LazyLock::new(|| format!("{TEMP_PREFIX}{}-", ProcessId::current()));

/// Writes `path` through a temporary file beside it: filled by `fill`, synced, renamed.
///
/// After a kill at any moment, `path` is either unchanged or complete. Missing parent folders are created.
pub fn write_atomically(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<&mut File>) -> std::io::Result<()>,
) -> Result<()> {
    let mut temporary = temporary_file(parent_of(path))?;
    {
        let mut writer = BufWriter::with_capacity(1 << 18, temporary.as_file_mut());
        fill(&mut writer)
            .and_then(|()| writer.flush())
            .map_err(Error::io(path, "write"))?;
    }
    persist(temporary, path)
}

/// An empty temporary file in `folder`, which is created if missing. The file is removed unless passed to [`persist`].
pub fn temporary_file(folder: &Path) -> Result<NamedTempFile> {
    create_folder(folder)?;
    temporary_names(0o666)
        .tempfile_in(folder)
        .map_err(Error::io(folder, "write into the folder"))
}

/// Creates the folder `path` and its parents, if missing.
///
/// # Errors
/// A file in its place or in that of a parent, which the message names; a folder that cannot be created.
pub fn create_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).or_else(|error| {
        ensure_not_file(path)?;
        Err(Error::io(path, "create the folder")(error))
    })
}

/// # Errors
/// `path` or one of its parents is a file.
pub fn ensure_not_file(path: &Path) -> Result<()> {
    let is_file = |above: &&Path| above.exists() && !above.is_dir();
    match path.ancestors().find(is_file) {
        Some(file) => Err(Error::file(
            file,
            "is a file; expected a folder, or a path that does not exist",
        )),
        None => Ok(()),
    }
}

/// Syncs a complete temporary file, renames it to `path` and syncs the folder.
pub fn persist(temporary: NamedTempFile, path: &Path) -> Result<()> {
    temporary
        .as_file()
        .sync_all()
        .map_err(Error::io(path, "sync"))?;
    temporary
        .persist(path)
        .map_err(|error| match path.is_dir() {
            true => Error::file(path, "is a folder; expected a file name"),
            false => Error::io(path, "rename the finished file to")(error.error),
        })?;
    sync_folder(parent_of(path))
}

/// Syncs a folder, so that a file or folder renamed there keeps its name after a power cut.
///
/// # Errors
/// The disk fails or is full. A file system that cannot sync folders, or an unreadable folder, is no error.
pub fn sync_folder(folder: &Path) -> Result<()> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.or_else(|error| match error.raw_os_error() {
        Some(libc::EIO | libc::ENOSPC | libc::EDQUOT) => {
            Err(Error::io(folder, "sync the folder")(error))
        }
        _ => Ok(()),
    })
}

/// Syncs all files and folders in `folder` and the folder itself.
///
/// # Errors
/// A file cannot be read or synced.
pub fn sync_tree(folder: &Path) -> Result<()> {
    let entries = fs::read_dir(folder).and_then(|entries| entries.collect());
    let mut entries: Vec<fs::DirEntry> = entries.map_err(Error::io(folder, "read the folder"))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let kind = entry.file_type().map_err(Error::io(&path, "read"))?;
        if kind.is_dir() {
            sync_tree(&path)?;
        } else if kind.is_file() {
            let synced = File::open(&path).and_then(|file| file.sync_all());
            synced.map_err(Error::io(&path, "sync"))?;
        }
    }
    sync_folder(folder)
}

/// Copies a file and syncs the copy, for file systems without links.
pub fn copy_synced(from: &Path, to: &Path) -> std::io::Result<()> {
    regular_file::copy(from, to)?;
    File::open(to)?.sync_all()
}

/// Renames the finished folder `from` to `path`, which must not exist or be an empty folder. Its content is synced
/// before, the name afterwards.
///
/// # Errors
/// Files cannot be synced, or the folder cannot be renamed.
pub fn rename_folder(from: &Path, path: &Path) -> Result<()> {
    sync_tree(from)?;
    fs::rename(from, path).map_err(Error::io(path, "rename the finished folder to"))?;
    sync_folder(parent_of(path))
}

/// [`write_atomically`] for bytes in memory.
pub fn write_bytes_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically(path, |writer| writer.write_all(bytes))
}

/// Sets the times of the file at `path` to now, on shared storage by the file server's clock.
pub fn touch(path: &Path) -> std::io::Result<()> {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    };
    let times = Timestamps {
        last_access: now,
        last_modification: now,
    };
    Ok(utimensat(CWD, path, &times, AtFlags::empty())?)
}

/// A builder for temporary files (`mode` 666) and folders (777). Their permissions follow the umask, so that results
/// are readable by everyone the user allows, not by the owner alone.
pub(crate) fn temporary_names(mode: u32) -> tempfile::Builder<'static, 'static> {
    use std::os::unix::fs::PermissionsExt;
    let mut builder = tempfile::Builder::new();
    builder.prefix(OWN_TEMP_PREFIX.as_str());
    builder.permissions(fs::Permissions::from_mode(mode));
    builder
}

/// The parent folder of `path`; `.` for a bare name.
pub fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_in_place_of_folders_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        for below in [file.clone(), file.join("deep/er")] {
            let message = create_folder(&below).unwrap_err().to_string();
            assert!(
                message.starts_with(&format!("{}: is a file", file.display())),
                "{message}"
            );
            let message = write_bytes_atomically(&below.join("x"), b"")
                .unwrap_err()
                .to_string();
            assert!(message.contains("is a file"), "{message}");
        }
        let message = write_bytes_atomically(folder.path(), b"")
            .unwrap_err()
            .to_string();
        assert!(message.contains("is a folder"), "{message}");
        create_folder(&folder.path().join("a/b")).unwrap();
        create_folder(&folder.path().join("a/b")).unwrap();
    }

    #[test]
    fn a_finished_folder_is_renamed_to_an_unused_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        write_bytes_atomically(&at("made/deep/file"), b"whole").unwrap();
        fs::create_dir(at("empty")).unwrap();
        rename_folder(&at("made"), &at("empty")).unwrap();
        assert_eq!(fs::read(at("empty/deep/file")).unwrap(), b"whole");
        write_bytes_atomically(&at("made/other"), b"").unwrap();
        assert!(rename_folder(&at("made"), &at("empty")).is_err());
        assert!(at("made/other").exists() && at("empty/deep/file").exists());
        sync_folder(&at("nowhere")).unwrap();
        assert!(sync_tree(&at("nowhere")).is_err());
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_litter() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/result.bin");
        write_bytes_atomically(&path, b"whole").unwrap();
        let failed = write_atomically(&path, |writer| {
            writer.write_all(b"half")?;
            Err(std::io::Error::other("disk full"))
        });
        assert!(failed.unwrap_err().to_string().contains("disk full"));
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
