//! Opens untrusted files: regular files only, without blocking, with a size limit when read into memory. A FIFO would
//! block, and a device may be endless.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Default size limit for files read into memory: JSON, TOML, lists, tables, checksums. `predictions.json` of 500,000
/// cases has about 200 MiB.
pub const MAX_BYTES: u64 = 256 << 20;

/// As [`File::open`].
///
/// # Errors
/// `InvalidData` if it is not a regular file.
pub fn open(path: &Path) -> io::Result<File> {
    open_with(OpenOptions::new().read(true), path)
}

/// Opens a file for reading and appending, created if missing.
///
/// # Errors
/// Same as [`open`].
pub fn append_to(path: &Path) -> io::Result<File> {
    open_with(
        OpenOptions::new().read(true).append(true).create(true),
        path,
    )
}

/// As [`File::create`].
///
/// # Errors
/// Same as [`open`].
pub fn create(path: &Path) -> io::Result<File> {
    open_with(
        OpenOptions::new().write(true).create(true).truncate(true),
        path,
    )
}

/// Copies the file `from` to `to`, with permissions by the umask.
///
/// # Errors
/// Same as [`open`], and those of reading and writing.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut from = open(from)?;
    io::copy(&mut from, &mut create(to)?).map(|_| ())
}

/// As [`std::fs::read`], up to [`MAX_BYTES`].
///
/// # Errors
/// `InvalidData` if it is not a regular file, or larger.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_at_most(path, MAX_BYTES)
}

/// [`read`] with another limit.
///
/// # Errors
/// Same as [`read`].
pub fn read_at_most(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let length = file.metadata()?.len();
    if length > max {
        return Err(too_long(&length.to_string(), max));
    }
    let mut bytes = Vec::new();
    let expected = usize::try_from(length).unwrap_or(usize::MAX);
    bytes
        .try_reserve_exact(expected)
        .map_err(|_| io::Error::from(ErrorKind::OutOfMemory))?;
    // It may have grown since, and files in /proc have no length.
    file.take(max + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > max {
        true => Err(too_long("more", max)),
        false => Ok(bytes),
    }
}

fn too_long(found: &str, max: u64) -> io::Error {
    let problem = format!("holds {found} bytes; expected at most {max}");
    io::Error::new(ErrorKind::InvalidData, problem)
}

fn open_with(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    // Checked before, since sockets cannot be opened and opening a device may have effects, and after, since the file
    // may have been replaced.
    if let Ok(metadata) = std::fs::metadata(path) {
        check(&metadata)?;
    }
    // Stays set for reading: no effect on files on disk, and files in /proc that wait for events fail.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let file = options.custom_flags(flags).open(path)?;
    check(&file.metadata()?)?;
    Ok(file)
}

fn check(metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    let other = match kind {
        _ if kind.is_file() => return Ok(()),
        _ if kind.is_dir() => "a folder",
        _ if kind.is_fifo() => "a FIFO",
        _ if kind.is_socket() => "a socket",
        _ => "a device",
    };
    let problem = format!("is {other}; expected a regular file");
    Err(io::Error::new(ErrorKind::InvalidData, problem))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_regular_files_are_opened_without_blocking() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, at("fifo"), mode).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        std::os::unix::fs::symlink(at("fifo"), at("link")).unwrap();
        for (path, kind) in [
            (at("fifo"), "a FIFO"),
            (at("link"), "a FIFO"),
            (at("socket"), "a socket"),
            (at(""), "a folder"),
            ("/dev/zero".into(), "a device"),
        ] {
            let expected = format!("is {kind}; expected a regular file");
            for error in [
                open(&path).unwrap_err(),
                append_to(&path).unwrap_err(),
                create(&path).unwrap_err(),
                read(&path).unwrap_err(),
                copy(&path, &at("copy")).unwrap_err(),
            ] {
                assert_eq!(error.to_string(), expected);
                assert_eq!(error.kind(), ErrorKind::InvalidData);
            }
        }
        assert!(!at("copy").exists());
        let missing = read(&at("none")).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn files_are_read_up_to_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read_at_most(&path, 5).unwrap(), b"12345");
        let other = folder.path().join("b.json");
        std::fs::write(&other, "a longer text").unwrap();
        copy(&path, &other).unwrap();
        assert_eq!(read(&other).unwrap(), b"12345");
        let error = read_at_most(&path, 4).unwrap_err().to_string();
        assert!(
            error.starts_with("holds 5 bytes; expected at most 4"),
            "{error}"
        );
        let huge = File::create(&path).unwrap();
        huge.set_len(3 << 30).unwrap();
        assert_eq!(read(&path).unwrap_err().kind(), ErrorKind::InvalidData);
        // Its length is reported as 0.
        assert!(read_at_most(Path::new("/proc/self/status"), 10).is_err());
    }
}
