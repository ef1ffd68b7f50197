//! File names of NIfTI images.

use std::path::Path;

/// Longest first, so that `.nii.gz` is not taken for a name that ends in something else.
const ENDINGS: [&str; 2] = [".nii.gz", ".nii"];

/// The file's name without its folder and without `.nii` or `.nii.gz` (in any case of letters).
///
/// `None` if the name has another ending, nothing before the ending, or is not UTF-8.
pub fn case_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let lower = name.to_ascii_lowercase();
    let ending = ENDINGS.iter().find(|ending| lower.ends_with(**ending))?;
    let stem = &name[..name.len() - ending.len()];
    (!stem.is_empty()).then(|| stem.to_owned())
}

/// Whether the file's name is that of a NIfTI image: something, then `.nii` or `.nii.gz`.
pub fn is_nifti_name(path: &Path) -> bool {
    case_name(path).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_are_stripped_in_any_case_and_nothing_else() {
        let name = |text: &str| case_name(Path::new(text));
        assert_eq!(name("a/b/case_1.nii.gz").as_deref(), Some("case_1"));
        assert_eq!(name("Case.1.NII").as_deref(), Some("Case.1"));
        assert_eq!(name("x.NiI.Gz").as_deref(), Some("x"));
        assert_eq!(name("größe.nii").as_deref(), Some("größe"));
        assert_eq!(name("x.nii.nii.gz").as_deref(), Some("x.nii"));
        for other in [
            ".nii",
            ".nii.gz",
            "x.gz",
            "x.nii.zip",
            "nii",
            "x",
            "",
            "..",
            "a.nii/",
        ] {
            let expected = (other == "a.nii/").then(|| "a".to_owned());
            assert_eq!(name(other), expected, "{other}");
        }
    }
}
