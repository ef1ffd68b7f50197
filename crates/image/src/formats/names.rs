//! File names of volumes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The file name without its folder and without the longest matching one of `endings` (case-insensitive).
///
/// `None` if the name has another ending, or nothing before the ending.
pub(crate) fn stem<'a>(path: &'a Path, endings: &[&str]) -> Option<&'a OsStr> {
    let name = path.file_name()?.as_bytes();
    let before = |ending: &&str| {
        let at = name.len().checked_sub(ending.len())?;
        let fits = name[at..].eq_ignore_ascii_case(ending.as_bytes());
        fits.then_some(&name[..at])
    };
    let stem = endings
        .iter()
        .filter_map(before)
        .min_by_key(|stem| stem.len())?;
    (!stem.is_empty()).then(|| OsStr::from_bytes(stem))
}

/// `.a, .b or .c`.
pub(super) fn in_words(endings: &[&str]) -> String {
    match endings {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_endings_are_stripped_in_any_case() {
        let name = |text: &str| {
            let stem = stem(Path::new(text), &[".nii", ".nii.gz"])?;
            Some(stem.to_str().unwrap().to_owned())
        };
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

    #[test]
    fn names_that_are_not_utf8_have_a_stem() {
        let name = OsStr::from_bytes(b"M\xfcller.NII.gz");
        let stem = stem(Path::new(name), &[".nii", ".nii.gz"]);
        assert_eq!(stem, Some(OsStr::from_bytes(b"M\xfcller")));
    }

    #[test]
    fn endings_are_listed_as_in_a_sentence() {
        assert_eq!(in_words(&[".nii", ".nii.gz"]), ".nii or .nii.gz");
        assert_eq!(in_words(&[".a", ".b", ".c"]), ".a, .b or .c");
        assert_eq!(in_words(&[".a"]), ".a");
    }
}
