//! File names of NIfTI images.

use std::path::Path;

use crate::formats::stem;

pub(super) const ENDINGS: [&str; 2] = [".nii", ".nii.gz"];

/// Whether the file name is a NIfTI image's: a non-empty stem, then `.nii` or `.nii.gz`.
pub fn is_nifti_name(path: &Path) -> bool {
    stem(path, &ENDINGS).is_some()
}
