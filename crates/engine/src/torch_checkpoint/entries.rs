//! The entries of the archive, read as they are stored.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};

use zip::{CompressionMethod, ZipArchive};

pub(super) type Archive = ZipArchive<BufReader<File>>;

/// All bytes of an entry, which is stored as it is.
pub(super) fn entry(
    archive: &mut Archive,
    name: &str,
    most: u64,
) -> std::result::Result<Vec<u8>, String> {
    let size = checked(archive, name)?;
    if size > most {
        return Err(format!("'{name}' of {size} bytes, where {most} are plenty"));
    }
    part(archive, name, 0, size)
}

/// `count` bytes of an entry from `from` on.
pub(super) fn part(
    archive: &mut Archive,
    name: &str,
    from: u64,
    count: u64,
) -> std::result::Result<Vec<u8>, String> {
    check_end(archive, name, from.saturating_add(count))?;
    let failed = |problem: &dyn std::fmt::Display| format!("'{name}' cannot be read ({problem})");
    let mut entry = archive
        .by_name_seek(name)
        .map_err(|problem| failed(&problem))?;
    entry
        .seek(SeekFrom::Start(from))
        .map_err(|problem| failed(&problem))?;
    let mut bytes = Vec::new();
    entry
        .take(count)
        .read_to_end(&mut bytes)
        .map_err(|problem| failed(&problem))?;
    if bytes.len() as u64 != count {
        return Err(format!(
            "'{name}' ends after {} of {count} bytes",
            bytes.len()
        ));
    }
    Ok(bytes)
}

/// Refuses an entry that has not so many bytes.
pub(super) fn check_end(
    archive: &Archive,
    name: &str,
    end: u64,
) -> std::result::Result<(), String> {
    let size = checked(archive, name)?;
    match end <= size {
        true => Ok(()),
        false => Err(format!("'{name}' has {size} bytes, {end} are wanted")),
    }
}

/// The size of an entry; PyTorch compresses nothing, so that no entry is larger than the file.
fn checked(archive: &Archive, name: &str) -> std::result::Result<u64, String> {
    let entry = archive
        .index_for_name(name)
        .and_then(|index| archive.by_index_data(index).ok())
        .ok_or_else(|| format!("'{name}' is not in it"))?;
    let is_plain = entry.compression() == CompressionMethod::Stored
        && entry.size() == entry.compressed_size()
        && !entry.encrypted();
    match is_plain {
        true => Ok(entry.size()),
        false => Err(format!(
            "'{name}' is compressed, which torch.save never does"
        )),
    }
}
