//! File names of volumes.

use std::path::Path;

/// The file's name without its folder and without the longest of `endings` that it ends in (in any case of letters).
///
/// `None` if the name has another ending, nothing before the ending, or is not UTF-8.
pub(crate) fn stem(path: &Path, endings: &[&str]) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let lower = name.to_ascii_lowercase();
    let fitting = endings.iter().filter(|ending| lower.ends_with(**ending));
    let ending = fitting.max_by_key(|ending| ending.len())?;
    let stem = &name[..name.len() - ending.len()];
    (!stem.is_empty()).then(|| stem.to_owned())
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
    fn endings_are_stripped_in_any_case_and_nothing_else() {
        let name = |text: &str| stem(Path::new(text), &[".nii", ".nii.gz"]);
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
    fn endings_are_listed_as_a_sentence_lists_them() {
        assert_eq!(in_words(&[".nii", ".nii.gz"]), ".nii or .nii.gz");
        assert_eq!(in_words(&[".a", ".b", ".c"]), ".a, .b or .c");
        assert_eq!(in_words(&[".a"]), ".a");
    }
}
