//! The entries of the archive, read as they are stored.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};

use zip::{CompressionMethod, ZipArchive};

pub(super) type Archive = ZipArchive<BufReader<File>>;

/// All bytes of an entry, which is stored as it is.
pub(super) fn entry(
    archive: &mut Archive,
    name: &[u8],
    most: u64,
) -> std::result::Result<Vec<u8>, String> {
    let (_, size) = checked(archive, name)?;
    if size > most {
        let name = shown(name);
        return Err(format!("'{name}' of {size} bytes, where {most} are plenty"));
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
    let index = with_end(archive, name, from.saturating_add(count))?;
    let name = shown(name);
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

/// The place of an entry that has so many bytes.
pub(super) fn with_end(
    archive: &Archive,
    name: &[u8],
    end: u64,
) -> std::result::Result<usize, String> {
    let (index, size) = checked(archive, name)?;
    match end <= size {
        true => Ok(index),
        false => Err(format!(
            "'{}' has {size} bytes, {end} are wanted",
            shown(name)
        )),
    }
}

/// The place and size of an entry; PyTorch compresses nothing, so that no entry is larger than the file. It is looked for
/// by the bytes of its name: to decode all names for each that is asked for would take time without end.
fn checked(archive: &Archive, name: &[u8]) -> std::result::Result<(usize, u64), String> {
    let index = archive.index_for_name_raw(name);
    let entry = index.and_then(|index| Some((index, archive.by_index_data(index).ok()?)));
    let (index, entry) = entry.ok_or_else(|| format!("'{}' is not in it", shown(name)))?;
    let is_plain = entry.compression() == CompressionMethod::Stored
        && entry.size() == entry.compressed_size()
        && !entry.encrypted();
    match is_plain {
        true => Ok((index, entry.size())),
        false => Err(format!(
            "'{}' is compressed, which torch.save never does",
            shown(name)
        )),
    }
}

fn shown(name: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(name)
}
