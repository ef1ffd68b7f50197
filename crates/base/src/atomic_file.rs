//! Writing files so that nothing half-written ever stands under a final name.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::LazyLock;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};
use tempfile::NamedTempFile;

use crate::process::id::ProcessId;
use crate::{Error, Result, regular_file};

/// Temporary names start with this and the process that writes them, so that leftovers of a kill can be told
/// and removed, see [`crate::temp_files`].
pub const TEMPORARY: &str = ".ctseg-";

static OWN_TEMPORARY: LazyLock<String> =
    LazyLock::new(|| format!("{TEMPORARY}{}-", ProcessId::own()));

/// Writes `path` through a temporary file beside it: filled by `fill`, synced, renamed.
///
/// Killed at any moment, `path` is either untouched or whole. Missing parent folders are made.
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
    persisted(temporary, path)
}

/// An empty temporary file in `folder`, which is made if it is missing; removed unless it is [`persisted`].
pub fn temporary_file(folder: &Path) -> Result<NamedTempFile> {
    create_folder(folder)?;
    temporary_names(0o666)
        .tempfile_in(folder)
        .map_err(Error::io(folder, "write into the folder"))
}

/// Makes the folder `path`, and those above it, unless it is there.
///
/// # Errors
/// A file in its place or above it, which is named; a folder that cannot be made.
pub fn create_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).or_else(|error| {
        refuse_file(path)?;
        Err(Error::io(path, "create the folder")(error))
    })
}

/// # Errors
/// A file where the folder `path` is expected, or above it.
pub fn refuse_file(path: &Path) -> Result<()> {
    let is_file = |above: &&Path| above.exists() && !above.is_dir();
    match path.ancestors().find(is_file) {
        Some(file) => Err(Error::file(
            file,
            "is a file; expected a folder, or a name that is free",
        )),
        None => Ok(()),
    }
}

/// Syncs a whole temporary file, gives it its name and syncs that.
pub fn persisted(temporary: NamedTempFile, path: &Path) -> Result<()> {
    temporary
        .as_file()
        .sync_all()
        .map_err(Error::io(path, "sync"))?;
    temporary
        .persist(path)
        .map_err(|error| match path.is_dir() {
            true => Error::file(path, "is a folder; expected the name of a file"),
            false => Error::io(path, "rename the finished file to")(error.error),
        })?;
    sync_folder(parent_of(path))
}

/// Syncs the names in a folder, so that a file or folder that was renamed there keeps its name after a power cut.
///
/// # Errors
/// The disk fails or is full. A file system that cannot sync a folder is no error, nor is a folder that may not be read.
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
/// A file that cannot be read or synced.
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
pub fn synced_copy(from: &Path, to: &Path) -> std::io::Result<()> {
    regular_file::copy(from, to)?;
    File::open(to)?.sync_all()
}

/// Gives the finished folder `made` its name, where nothing is or an empty folder: all in it is synced before, the name
/// afterwards.
///
/// # Errors
/// Files that cannot be synced, a folder that cannot be renamed.
pub fn rename_folder(made: &Path, path: &Path) -> Result<()> {
    sync_tree(made)?;
    fs::rename(made, path).map_err(Error::io(path, "rename the finished folder to"))?;
    sync_folder(parent_of(path))
}

/// [`write_atomically`] for content that is at hand already.
pub fn write_bytes_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically(path, |writer| writer.write_all(bytes))
}

/// Gives the file at `path` the time of this moment, which on shared storage is the file server's.
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

/// Names of temporary files (`mode` 666) and folders (777), whose permissions follow the umask: results are for whom the
/// user lets read them, not for their owner alone.
pub(crate) fn temporary_names(mode: u32) -> tempfile::Builder<'static, 'static> {
    use std::os::unix::fs::PermissionsExt;
    let mut builder = tempfile::Builder::new();
    builder.prefix(OWN_TEMPORARY.as_str());
    builder.permissions(fs::Permissions::from_mode(mode));
    builder
}

/// The folder that `path` lies in; `.` for a bare name.
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
    fn files_and_folders_that_stand_for_each_other_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        for below in [file.clone(), file.join("deep/er")] {
            let said = create_folder(&below).unwrap_err().to_string();
            assert!(
                said.starts_with(&format!("{}: is a file", file.display())),
                "{said}"
            );
            let said = write_bytes_atomically(&below.join("x"), b"")
                .unwrap_err()
                .to_string();
            assert!(said.contains("is a file"), "{said}");
        }
        let said = write_bytes_atomically(folder.path(), b"")
            .unwrap_err()
            .to_string();
        assert!(said.contains("is a folder"), "{said}");
        create_folder(&folder.path().join("a/b")).unwrap();
        create_folder(&folder.path().join("a/b")).unwrap();
    }

    #[test]
    fn a_finished_folder_takes_a_name_that_is_free() {
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
