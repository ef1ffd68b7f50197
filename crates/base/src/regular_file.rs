//! The one way to open files that others may have put there: regular files only, without waiting, and in memory no
//! more of them than their kind can be large. A FIFO would be waited for, a device may have no end.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Most bytes of a file that is read as a whole, unless its kind is smaller: JSON, TOML, lists, tables, checksums.
/// `predictions.json` of 500,000 cases has about 200 MiB; what is larger is something else and would fill the memory.
pub const MOST_BYTES: u64 = 256 << 20;

/// As [`File::open`].
///
/// # Errors
/// `InvalidData` for what is no regular file.
pub fn open(path: &Path) -> io::Result<File> {
    opened(OpenOptions::new().read(true), path)
}

/// A file to append to, which is made where there is none; it can be read too.
///
/// # Errors
/// As of [`open`].
pub fn append_to(path: &Path) -> io::Result<File> {
    opened(
        OpenOptions::new().read(true).append(true).create(true),
        path,
    )
}

/// As [`File::create`].
///
/// # Errors
/// As of [`open`].
pub fn create(path: &Path) -> io::Result<File> {
    opened(
        OpenOptions::new().write(true).create(true).truncate(true),
        path,
    )
}

/// A copy of the file `from` at `to`, whose permissions follow the umask.
///
/// # Errors
/// As of [`open`], and those of reading and writing.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut from = open(from)?;
    io::copy(&mut from, &mut create(to)?).map(|_| ())
}

/// As [`std::fs::read`], of at most [`MOST_BYTES`].
///
/// # Errors
/// `InvalidData` for what is no regular file, or larger.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_at_most(path, MOST_BYTES)
}

/// [`read`] with another limit.
///
/// # Errors
/// As of [`read`].
pub fn read_at_most(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let length = file.metadata()?.len();
    if length > most {
        return Err(too_long(&length.to_string(), most));
    }
    let mut bytes = Vec::new();
    let expected = usize::try_from(length).unwrap_or(usize::MAX);
    bytes
        .try_reserve_exact(expected)
        .map_err(|_| io::Error::from(ErrorKind::OutOfMemory))?;
    // It may have grown since, and files of /proc say no length.
    file.take(most + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > most {
        true => Err(too_long("more", most)),
        false => Ok(bytes),
    }
}

fn too_long(found: &str, most: u64) -> io::Error {
    let problem = format!("holds {found} bytes; expected at most {most} in such a file");
    io::Error::new(ErrorKind::InvalidData, problem)
}

fn opened(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    // Looked at before, since sockets cannot be opened and to open a device may do something, and after, since another
    // file may have come into its place.
    if let Ok(metadata) = std::fs::metadata(path) {
        check(&metadata)?;
    }
    // Stays set for reading: it changes nothing for files on disk, and those of /proc that wait for events fail.
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
    fn only_regular_files_are_opened_and_nothing_is_waited_for() {
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
        // Says that it has no bytes.
        assert!(read_at_most(Path::new("/proc/self/status"), 10).is_err());
    }
}
