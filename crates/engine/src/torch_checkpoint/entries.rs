//! Uncompressed entries of the archive.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};

use zip::{CompressionMethod, ZipArchive};

pub(super) type Archive = ZipArchive<BufReader<File>>;

/// All bytes of an uncompressed entry.
pub(super) fn entry(
    archive: &mut Archive,
    name: &[u8],
    most: u64,
) -> std::result::Result<Vec<u8>, String> {
    let (_, size) = checked(archive, name)?;
    if size > most {
        let name = lossy_name(name);
        return Err(format!(
            "'{name}' has {size} bytes, expected at most {most}"
        ));
    }
    part(archive, name, 0, size)
}

/// `count` bytes of an entry from `from` on.
pub(super) fn part(
    archive: &mut Archive,
    name: &[u8],
    from: u64,
    count: u64,
) -> std::result::Result<Vec<u8>, String> {
    let index = check_length(archive, name, from.saturating_add(count))?;
    let name = lossy_name(name);
    let failed = |problem: &dyn std::fmt::Display| format!("'{name}' cannot be read ({problem})");
    let mut entry = archive
        .by_index_seek(index)
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

/// The index of an entry, if it has at least `end` bytes.
pub(super) fn check_length(
    archive: &Archive,
    name: &[u8],
    end: u64,
) -> std::result::Result<usize, String> {
    let (index, size) = checked(archive, name)?;
    match end <= size {
        true => Ok(index),
        false => Err(format!(
            "'{}' has {size} bytes, expected at least {end}",
            lossy_name(name)
        )),
    }
}

/// Index and size of an uncompressed entry; PyTorch never compresses, so no entry is larger than the file. Entries
/// are looked up by the raw bytes of their names: decoding all names for every lookup would be too slow.
fn checked(archive: &Archive, name: &[u8]) -> std::result::Result<(usize, u64), String> {
    let index = archive.index_for_name_raw(name);
    let entry = index.and_then(|index| Some((index, archive.by_index_data(index).ok()?)));
    let (index, entry) = entry.ok_or_else(|| format!("'{}' is not in it", lossy_name(name)))?;
    let is_plain = entry.compression() == CompressionMethod::Stored
        && entry.size() == entry.compressed_size()
        && !entry.encrypted();
    match is_plain {
        true => Ok((index, entry.size())),
        false => Err(format!(
            "'{}' is compressed, which torch.save never does",
            lossy_name(name)
        )),
    }
}

fn lossy_name(name: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(name)
}
