//! Reading the header of a source and checking it against the source's length.

use std::path::Path;

use super::header::NiftiHeader;
use super::identify::{PREFIX_BYTES, identify};
use super::raw::RawHeader;
use crate::formats::{MAX_EXPANSION, MAX_PADDING, Source};
use ctseg_base::Result;

/// The checked header; leaves the source positioned just after it.
pub(super) fn header_from(source: &mut Source) -> Result<NiftiHeader> {
    header(source)
        .and_then(|header| check_length(&header, source.length()).map(|()| header))
        .map_err(|problem| source.problem(problem))
}

fn header(source: &mut Source) -> std::result::Result<NiftiHeader, String> {
    NiftiHeader::parse(raw_header(source)?, source.is_gzip())
}

/// A header whose fields are not checked yet.
pub(super) fn raw_header(source: &mut Source) -> std::result::Result<RawHeader, String> {
    let mut bytes = vec![0; PREFIX_BYTES];
    let found = source.fill(&mut bytes)?;
    let (version, order) = identify(&bytes[..found]).map_err(|problem| {
        if let Some(header) = header_of_pair(source.name()) {
            return format!(
                "the voxels of an .hdr/.img pair; expected header and voxels in one .nii or .nii.gz file; join \
                 them, for example with nibabel.save(nibabel.load('{header}'), 'x.nii.gz')"
            );
        }
        match source.is_gzip() {
            true => format!("decompressed content: {problem}"),
            false => problem,
        }
    })?;
    bytes.resize(version.header_bytes(), 0);
    source.fill(&mut bytes[PREFIX_BYTES..])?;
    if source.position() < version.header_bytes() as u64 {
        return Err(truncated(
            source.position(),
            version.first_voxel_byte(),
            "at least",
        ));
    }
    RawHeader::new(bytes, order, version).ok_or_else(|| "its header has no known size".to_owned())
}

/// The file name of the header that belongs to the voxels of an .hdr/.img pair.
fn header_of_pair(voxels: &Path) -> Option<String> {
    let header = voxels.with_extension("hdr");
    let is_pair = voxels.extension()?.eq_ignore_ascii_case("img") && header.is_file();
    is_pair.then(|| {
        header
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    })
}

/// Compares the size that the header declares with the file's length, before anything is allocated.
fn check_length(header: &NiftiHeader, file_bytes: Option<u64>) -> std::result::Result<(), String> {
    let Some(file_bytes) = file_bytes else {
        return Ok(());
    };
    let expected = header.data_offset + header.data_bytes();
    if header.compressed {
        if expected / MAX_EXPANSION > file_bytes {
            return Err(format!(
                "truncated or damaged: its header declares {expected} bytes for {}, more than {file_bytes} \
                 bytes of gzip data can hold; copy or export it again",
                declared(header)
            ));
        }
        return Ok(());
    }
    match file_bytes.cmp(&expected) {
        std::cmp::Ordering::Less => Err(format!(
            "{} ({})",
            truncated(file_bytes, expected, "exactly"),
            declared(header)
        )),
        std::cmp::Ordering::Equal => Ok(()),
        // Zero bytes are skipped; anything else is reported when it is read.
        std::cmp::Ordering::Greater if file_bytes - expected <= MAX_PADDING => Ok(()),
        std::cmp::Ordering::Greater => Err(format!(
            "{} bytes follow the voxels: {file_bytes} bytes found, {expected} expected for {}; the \
             file is damaged, export it again",
            file_bytes - expected,
            declared(header)
        )),
    }
}

pub(super) fn truncated(found: u64, expected: u64, how: &str) -> String {
    format!("truncated: {found} bytes found, {how} {expected} expected; copy or export it again")
}

/// The voxels that a header declares.
pub(super) fn declared(header: &NiftiHeader) -> String {
    let [x, y, z] = header.grid().shape;
    format!("{x} x {y} x {z} voxels of {}", header.voxel_type.name())
}
