//! Writing files so that nothing half-written ever stands under a final name.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::error::{Error, Result};

/// Writes `path` through a temporary file beside it: filled by `fill`, synced, renamed.
///
/// Killed at any moment, `path` is either untouched or whole. Missing parent folders are made.
/// Temporary names start with `.ctseg-` so that leftovers of a kill can be told and removed.
pub fn write_atomically(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<&mut File>) -> std::io::Result<()>,
) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder).map_err(Error::io(folder, "create the folder"))?;
    let mut temporary = tempfile::Builder::new()
        .prefix(".ctseg-")
        .tempfile_in(folder)
        .map_err(Error::io(folder, "write into the folder"))?;
    {
        let mut writer = BufWriter::with_capacity(1 << 18, temporary.as_file_mut());
        fill(&mut writer)
            .and_then(|()| writer.flush())
            .map_err(Error::io(path, "write"))?;
    }
    make_readable(temporary.as_file()).map_err(Error::io(path, "set permissions of"))?;
    temporary
        .as_file()
        .sync_all()
        .map_err(Error::io(path, "sync"))?;
    temporary
        .persist(path)
        .map_err(|error| Error::io(path, "rename the finished file to")(error.error))?;
    // The rename itself must survive a power cut too; not every file system can sync a folder.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// [`write_atomically`] for content that is at hand already.
pub fn write_bytes_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically(path, |writer| writer.write_all(bytes))
}

/// Temporary files are created for their owner alone; results are for the group that asked for them.
#[cfg(unix)]
fn make_readable(file: &File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn make_readable(_: &File) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
