//! Detection of NIfTI by a file's first bytes.

use super::raw::{ByteOrder, Version};
use crate::formats::{START_BYTES, foreign};

/// Bytes needed for detection: the length of a NIfTI-1 header.
pub(super) const PREFIX_BYTES: usize = START_BYTES;

/// The version and byte order of the header that starts with `prefix` ([`PREFIX_BYTES`] bytes, fewer only if the file
/// is shorter). The error says what the file seems to be instead.
pub(super) fn identify(prefix: &[u8]) -> Result<(Version, ByteOrder), String> {
    let Some(size) = prefix.first_chunk::<4>() else {
        return Err(match prefix.len() {
            0 => "empty; expected a NIfTI image; copy or export it again".to_owned(),
            bytes => format!("only {bytes} bytes; expected a NIfTI image; copy or export it again"),
        });
    };
    let (version, order) = match (i32::from_le_bytes(*size), i32::from_be_bytes(*size)) {
        (348, _) => (Version::Nifti1, ByteOrder::Little),
        (_, 348) => (Version::Nifti1, ByteOrder::Big),
        (540, _) => (Version::Nifti2, ByteOrder::Little),
        (_, 540) => (Version::Nifti2, ByteOrder::Big),
        _ => return Err(other(prefix)),
    };
    if prefix.len() < PREFIX_BYTES {
        return Err(format!(
            "truncated within its header: {} bytes found, at least {} expected; copy or export it again",
            prefix.len(),
            version.first_voxel_byte()
        ));
    }
    match version {
        Version::Nifti1 => check_magic(&prefix[344..348], b"n+1\0", b"ni1\0")?,
        Version::Nifti2 => {
            check_magic(&prefix[4..8], b"n+2\0", b"ni2\0")?;
            check_line_ends(&prefix[8..12])?;
        }
    }
    Ok((version, order))
}

fn check_magic(found: &[u8], single: &[u8; 4], pair: &[u8; 4]) -> Result<(), String> {
    if found == single {
        Ok(())
    } else if found == pair {
        Err(
            "the header of an .hdr/.img pair; expected header and voxels in one .nii or .nii.gz file; \
             join them, for example with nibabel.save(nibabel.load('x.hdr'), 'x.nii.gz')"
                .to_owned(),
        )
    } else {
        Err(format!(
            "has a header like NIfTI's, but its magic is '{}' and not '{}'; Analyze 7.5 or damaged; \
             convert it to NIfTI first",
            found.escape_ascii(),
            single[..3].escape_ascii()
        ))
    }
}

/// NIfTI-2 contains line ends that reveal text-mode transfers; some writers leave zeros.
fn check_line_ends(found: &[u8]) -> Result<(), String> {
    if found == b"\r\n\x1a\n" || found == [0; 4] {
        return Ok(());
    }
    Err(format!(
        "its line-end check is '{}' and not '\\r\\n\\x1a\\n'; a transfer in text mode has damaged the \
         file; copy it again in binary mode",
        found.escape_ascii()
    ))
}

/// Describes a file that is not NIfTI.
fn other(prefix: &[u8]) -> String {
    match foreign(prefix) {
        Some(kind) => format!("{}; expected a NIfTI image; {}", kind.name, kind.remedy),
        None => format!(
            "not a NIfTI image: begins with '{}', expected a header size of 348 or 540; export it again \
             as .nii.gz",
            prefix[..prefix.len().min(4)].escape_ascii()
        ),
    }
}
