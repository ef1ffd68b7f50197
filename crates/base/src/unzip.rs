//! Unpacks untrusted zip files.

use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::path::{Component, Path};

use zip::ZipArchive;

use crate::atomic_file::{create_folder, parent_of};
use crate::temp_files::temporary_folder;
use crate::{Error, Result, regular_file};

/// Highest plausible compression ratio (deflate reaches about 1030); more is a zip bomb.
const MAX_RATIO: u64 = 1100;

/// Refuses an archive with overlapping entries, which could unpack to any multiple of its size.
///
/// # Errors
/// The compressed entries exceed the `length` of the file in bytes; the error is the message.
pub fn check_overlaps<R>(archive: &ZipArchive<R>, length: u64) -> std::result::Result<(), String>
where
    R: Read + Seek,
{
    let mut sum = 0u64;
    for index in 0..archive.len() {
        let entry = archive
            .by_index_data(index)
            .map_err(|problem| problem.to_string())?;
        sum = sum.saturating_add(entry.compressed_size());
    }
    match sum <= length {
        true => Ok(()),
        false => Err(format!(
            "its entries overlap: {sum} compressed bytes in a file of {length}"
        )),
    }
}

/// Unpacks the files whose names are `wanted` to a temporary folder beside `target`.
///
/// # Errors
/// Not a zip file; names outside the folder; files whose size differs from the archive's entry or exceeds any plausible
/// compression ratio; a full disk.
pub fn unzip_to_temp(
    path: &Path,
    target: &Path,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<tempfile::TempDir> {
    let refused = |problem: String| Error::file(path, format!("cannot unpack: {problem}"));
    let file = regular_file::open(path).map_err(Error::io(path, "open"))?;
    let packed = file.metadata().map_err(Error::io(path, "read"))?.len();
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|problem| {
        let pointer = crate::pointer_file::problem(path);
        refused(pointer.unwrap_or_else(|| format!("not a zip file ({problem})")))
    })?;
    check_overlaps(&archive, packed).map_err(refused)?;
    let folder = temporary_folder(parent_of(target))?;
    let mut room = packed.saturating_mul(MAX_RATIO);
    for index in 0..archive.len() {
        let entry = archive
            .by_index(index)
            .map_err(|problem| refused(problem.to_string()))?;
        let name = entry
            .name()
            .map_err(|problem| refused(problem.to_string()))?
            // Some Windows programs write backslashes, against the format.
            .replace('\\', "/");
        if entry.is_dir() || name.ends_with('/') || !wanted(&name) {
            continue;
        }
        let inside = Path::new(&name);
        let plain = inside
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if !plain {
            return Err(refused(format!("'{name}' is outside the target folder")));
        }
        let size = entry.size();
        if size > room {
            return Err(refused(format!(
                "'{name}' would unpack to {size} bytes, too many for an archive of {packed} bytes"
            )));
        }
        room -= size;
        let to = folder.path().join(inside);
        create_folder(parent_of(&to))?;
        let file = regular_file::create(&to).map_err(Error::io(&to, "write"))?;
        let mut writer = BufWriter::with_capacity(1 << 18, file);
        // One more byte detects a file that is longer than declared.
        let written = std::io::copy(&mut entry.take(size + 1), &mut writer)
            .and_then(|written| writer.flush().map(|()| written))
            .map_err(|problem| refused(format!("'{name}': {problem}")))?;
        if written != size {
            return Err(refused(format!(
                "'{name}' unpacks to {written} bytes or more, but the archive declares {size}"
            )));
        }
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use zip::write::SimpleFileOptions;

    fn archive(folder: &Path, files: &[(&str, &[u8])]) -> std::path::PathBuf {
        let path = folder.join("model.zip");
        let mut writer = zip::ZipWriter::new(File::create(&path).unwrap());
        for (name, bytes) in files {
            let options =
                SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
            writer.start_file(*name, options).unwrap();
            writer.write_all(bytes).unwrap();
        }
        writer.finish().unwrap();
        path
    }

    /// The archive at `path`, with its only entry repeated `times` times in the directory under different names.
    fn overlapping(path: &Path, times: u16) -> std::path::PathBuf {
        let whole = std::fs::read(path).unwrap();
        let end = whole.len() - 22;
        let number = |at: usize| u32::from_le_bytes(whole[at..at + 4].try_into().unwrap());
        let begin = number(end + 16) as usize;
        let mut bytes = whole[..begin].to_vec();
        for index in 0..times {
            let mut entry = whole[begin..end].to_vec();
            let name = format!("{index:05}");
            entry[46..51].copy_from_slice(name.as_bytes());
            bytes.extend(entry);
        }
        let directory = (bytes.len() - begin) as u32;
        let mut last = whole[end..].to_vec();
        last[8..10].copy_from_slice(&times.to_le_bytes());
        last[10..12].copy_from_slice(&times.to_le_bytes());
        last[12..16].copy_from_slice(&directory.to_le_bytes());
        bytes.extend(last);
        let to = path.with_file_name("overlapping.zip");
        std::fs::write(&to, bytes).unwrap();
        to
    }

    #[test]
    fn only_wanted_files_are_unpacked() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = vec![7; 300_000];
        let path = archive(folder.path(), &[("a/b/x.pth", &bytes), ("a/y.png", b"no")]);
        let target = folder.path().join("out");
        let found = unzip_to_temp(&path, &target, &|name| name.ends_with(".pth")).unwrap();
        assert_eq!(
            std::fs::read(found.path().join("a/b/x.pth")).unwrap(),
            bytes
        );
        assert!(!found.path().join("a/y.png").exists());
        let windows = [("a\\b\\x.pth", bytes.as_slice()), ("a\\c\\", b"")];
        let path = archive(folder.path(), &windows);
        let found = unzip_to_temp(&path, &target, &|name| !name.ends_with(".png")).unwrap();
        assert!(found.path().join("a/b/x.pth").is_file());
        let path = archive(folder.path(), &[("..\\x.pth", b"out")]);
        let error = unzip_to_temp(&path, &target, &|_| true).unwrap_err();
        assert!(
            error.to_string().contains("outside the target folder"),
            "{error}"
        );
        let path = archive(folder.path(), &[("../x.pth", b"out")]);
        let error = unzip_to_temp(&path, &target, &|_| true).unwrap_err();
        assert!(
            error.to_string().contains("outside the target folder"),
            "{error}"
        );
        assert!(!folder.path().parent().unwrap().join("x.pth").exists());
        std::fs::write(&path, b"not a zip").unwrap();
        assert!(unzip_to_temp(&path, &target, &|_| true).is_err());
        let noise: Vec<u8> = (0..3000u32)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        let once = archive(folder.path(), &[("a.pth", &noise)]);
        let path = overlapping(&once, 100);
        let error = unzip_to_temp(&path, &target, &|_| true).unwrap_err();
        assert!(error.to_string().contains("entries overlap"), "{error}");
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n";
        std::fs::write(&path, pointer).unwrap();
        let error = unzip_to_temp(&path, &target, &|_| true).unwrap_err();
        assert!(error.to_string().contains("git lfs pull"), "{error}");
    }
}
