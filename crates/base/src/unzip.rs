//! Unpacking zip files from elsewhere.

use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::path::{Component, Path};

use zip::ZipArchive;

use crate::atomic_file::{create_folder, parent_of};
use crate::temp_files::temporary_folder;
use crate::{Error, Result, regular_file};

/// Compressors make at most about a thousandth of a file; what promises more is a trap.
const LARGEST_RATIO: u64 = 1100;

/// Refuses an archive whose entries lie over one another: they would come to any multiple of the file.
///
/// # Errors
/// In words: entries that take more than the `length` bytes of the file.
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
            "its entries take {sum} bytes in all, and the file has {length}"
        )),
    }
}

/// A temporary folder beside `target` with the files of the archive whose names are `wanted`.
///
/// # Errors
/// No zip file, names that lead out of the folder, files that unpack to another size than the archive says or to
/// more than a compressor can make, no space.
pub fn unpacked_zip(
    path: &Path,
    target: &Path,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<tempfile::TempDir> {
    let refused = |problem: String| Error::file(path, format!("cannot be unpacked: {problem}"));
    let file = regular_file::open(path).map_err(Error::io(path, "open"))?;
    let packed = file.metadata().map_err(Error::io(path, "read"))?.len();
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|problem| {
        let pointer = crate::pointer_file::problem(path);
        refused(pointer.unwrap_or_else(|| format!("no zip file ({problem})")))
    })?;
    check_overlaps(&archive, packed).map_err(refused)?;
    let folder = temporary_folder(parent_of(target))?;
    let mut room = packed.saturating_mul(LARGEST_RATIO);
    for index in 0..archive.len() {
        let entry = archive
            .by_index(index)
            .map_err(|problem| refused(problem.to_string()))?;
        let name = entry
            .name()
            .map_err(|problem| refused(problem.to_string()))?
            // Some programs for Windows write its separators, which the format does not know.
            .replace('\\', "/");
        if entry.is_dir() || name.ends_with('/') || !wanted(&name) {
            continue;
        }
        let inside = Path::new(&name);
        let plain = inside
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if !plain {
            return Err(refused(format!("'{name}' leads out of its folder")));
        }
        let size = entry.size();
        if size > room {
            return Err(refused(format!(
                "'{name}' would unpack to {size} bytes, more than a file of {packed} can hold"
            )));
        }
        room -= size;
        let to = folder.path().join(inside);
        create_folder(parent_of(&to))?;
        let file = regular_file::create(&to).map_err(Error::io(&to, "write"))?;
        let mut writer = BufWriter::with_capacity(1 << 18, file);
        // One byte more tells a file that does not end where it should.
        let written = std::io::copy(&mut entry.take(size + 1), &mut writer)
            .and_then(|written| writer.flush().map(|()| written))
            .map_err(|problem| refused(format!("'{name}': {problem}")))?;
        if written != size {
            return Err(refused(format!(
                "'{name}' has {written} bytes or more, the archive says {size}"
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

    /// The archive at `path`, whose only entry stands `times` times in its directory, under names of their own.
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
    fn what_is_wanted_is_unpacked_and_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = vec![7; 300_000];
        let path = archive(folder.path(), &[("a/b/x.pth", &bytes), ("a/y.png", b"no")]);
        let target = folder.path().join("out");
        let found = unpacked_zip(&path, &target, &|name| name.ends_with(".pth")).unwrap();
        assert_eq!(
            std::fs::read(found.path().join("a/b/x.pth")).unwrap(),
            bytes
        );
        assert!(!found.path().join("a/y.png").exists());
        let windows = [("a\\b\\x.pth", bytes.as_slice()), ("a\\c\\", b"")];
        let path = archive(folder.path(), &windows);
        let found = unpacked_zip(&path, &target, &|name| !name.ends_with(".png")).unwrap();
        assert!(found.path().join("a/b/x.pth").is_file());
        let path = archive(folder.path(), &[("..\\x.pth", b"out")]);
        let error = unpacked_zip(&path, &target, &|_| true).unwrap_err();
        assert!(error.to_string().contains("leads out"), "{error}");
        let path = archive(folder.path(), &[("../x.pth", b"out")]);
        let error = unpacked_zip(&path, &target, &|_| true).unwrap_err();
        assert!(error.to_string().contains("leads out"), "{error}");
        assert!(!folder.path().parent().unwrap().join("x.pth").exists());
        std::fs::write(&path, b"not a zip").unwrap();
        assert!(unpacked_zip(&path, &target, &|_| true).is_err());
        let noise: Vec<u8> = (0..3000u32)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        let once = archive(folder.path(), &[("a.pth", &noise)]);
        let path = overlapping(&once, 100);
        let error = unpacked_zip(&path, &target, &|_| true).unwrap_err();
        assert!(error.to_string().contains("and the file has"), "{error}");
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n";
        std::fs::write(&path, pointer).unwrap();
        let error = unpacked_zip(&path, &target, &|_| true).unwrap_err();
        assert!(error.to_string().contains("git lfs pull"), "{error}");
    }
}
