//! Path patterns such as `images/*.nii.gz` and `{case}/segmentations/{structure}.nii.gz`.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use ctseg_base::text::os_text::{from_text, to_text};
use ctseg_base::{Error, Result};

const CASE: &str = "{case}";
const STRUCTURE: &str = "{structure}";

/// A relative path with `{case}`, and for masks `{structure}`, in place of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(String);

impl Pattern {
    /// A pattern for images: one `*` (or any number of `{case}`) stands for the case's id.
    pub fn for_images(text: &str) -> std::result::Result<Self, String> {
        if text.contains(STRUCTURE) {
            return Err(format!(
                "'{text}' is a pattern for images and cannot contain {STRUCTURE}"
            ));
        }
        match text.matches('*').count() {
            0 => Self::new(text.to_owned()),
            1 if !text.contains(CASE) => Self::new(text.replace('*', CASE)),
            _ => Err(format!(
                "'{text}' has more than one placeholder for the case id; use one * (or {CASE} wherever \
                 the id is repeated)"
            )),
        }
    }

    /// A pattern for label maps (with `{case}`) or binary masks (with `{structure}` too).
    pub fn for_labels(text: &str) -> std::result::Result<Self, String> {
        if text.contains('*') {
            return Err(format!(
                "'{text}' contains a *; in label paths write {CASE} for the case id"
            ));
        }
        Self::new(text.to_owned())
    }

    fn new(text: String) -> std::result::Result<Self, String> {
        if !text.contains(CASE) {
            return Err(format!(
                "'{text}' has no placeholder for the case id; add {CASE}"
            ));
        }
        if Path::new(&text).is_absolute() {
            return Err(format!(
                "'{text}' is absolute; make it relative to the dataset's root"
            ));
        }
        let repeated =
            |part: &str| part.matches(CASE).count() + part.matches(STRUCTURE).count() > 1;
        if let Some(part) = text.split('/').find(|part| repeated(part)) {
            return Err(format!(
                "'{text}' has two placeholders in '{part}'; use at most one between slashes"
            ));
        }
        if text.matches(STRUCTURE).count() > 1 {
            return Err(format!("'{text}' contains {STRUCTURE} more than once"));
        }
        Ok(Self(text))
    }

    /// Whether the labels are one mask per structure.
    pub fn per_structure(&self) -> bool {
        self.0.contains(STRUCTURE)
    }

    /// The path for a case; `{structure}`, if any, stays as it is.
    pub fn path(&self, root: &Path, case: &str) -> PathBuf {
        root.join(from_text(&self.0.replace(CASE, case)))
    }

    /// Every case for which the file exists, as (id, path), sorted by id; hidden files are skipped.
    pub fn cases(&self, root: &Path) -> Result<Vec<(String, PathBuf)>> {
        matches(root, &self.0, CASE)
    }

    /// Every structure of `case` for which the mask exists, as (name, path), sorted by name. A case
    /// without the folder has none.
    pub fn structures(&self, root: &Path, case: &str) -> Result<Vec<(String, PathBuf)>> {
        let Some((before, after)) = self.0.split_once(STRUCTURE) else {
            return Ok(Vec::new());
        };
        let (before, after) = (before.replace(CASE, case), after.replace(CASE, case));
        let (folder, prefix) = before.rsplit_once('/').unwrap_or(("", &before));
        let folder = root.join(from_text(folder));
        if !folder.is_dir() {
            return Ok(Vec::new());
        }
        matches(&folder, &format!("{prefix}{STRUCTURE}{after}"), STRUCTURE)
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The values of `placeholder` for which the file exists.
fn matches(root: &Path, pattern: &str, placeholder: &str) -> Result<Vec<(String, PathBuf)>> {
    let parts: Vec<&str> = pattern.split('/').collect();
    let place = parts
        .iter()
        .position(|part| part.contains(placeholder))
        .unwrap_or(0);
    let (prefix, suffix) = parts[place]
        .split_once(placeholder)
        .unwrap_or((parts[place], ""));
    let folder = root.join(parts[..place].join("/"));
    let mut found = Vec::new();
    for name in visible_names(&folder)? {
        let id = name
            .strip_prefix(prefix)
            .and_then(|rest| rest.strip_suffix(suffix));
        if let Some(id) = id.filter(|id| !id.is_empty()) {
            let path = root.join(from_text(&pattern.replace(placeholder, id)));
            if path.is_file() {
                found.push((id.to_owned(), path));
            }
        }
    }
    // Sort ids, not names: `a-1.nii` comes before `a.nii`, but `a` before `a-1`.
    found.sort();
    Ok(found)
}

/// File names in a folder, sorted, without hidden ones (macOS writes `._x.nii.gz` next to `x.nii.gz`); as text that
/// [`from_text`] turns back into the same bytes.
pub(super) fn visible_names(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let entries = entries.map_err(Error::io(folder, "list the folder"))?;
    let names = entries.iter().map(|entry| to_text(entry.file_name()));
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    Ok(names)
}

/// Label files (by pattern) whose case is not among `cases`. Not defined for one mask per structure.
pub(super) fn unpaired(root: &Path, labels: &Pattern, cases: &HashSet<&str>) -> Vec<PathBuf> {
    if labels.per_structure() {
        return Vec::new();
    }
    // A missing folder has no unpaired labels; missing label maps are reported one by one.
    let found = labels.cases(root).unwrap_or_default();
    found
        .into_iter()
        .filter(|(id, _)| !cases.contains(id.as_str()))
        .map(|(_, path)| path)
        .collect()
}

/// `./imagesTr/x.nii.gz` under the root, without the dot.
pub(super) fn joined(root: &Path, listed: &str) -> PathBuf {
    root.join(listed.trim_start_matches("./"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(root: &Path, names: &[&str]) {
        for name in names {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"").unwrap();
        }
    }

    fn ids(found: Vec<(String, PathBuf)>) -> Vec<String> {
        found.into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn a_star_is_the_case_in_a_file_or_folder_name() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        touch(
            root,
            &[
                "i/ct_b.nii",
                "i/ct_a.nii",
                "i/ct_.nii",
                "i/x.nii",
                "i/.ct_c.nii",
                "p/ct.nii",
                "q/mr.nii",
            ],
        );
        let images = Pattern::for_images("i/ct_*.nii").unwrap();
        assert_eq!(ids(images.cases(root).unwrap()), ["a", "b"]);
        let folders = Pattern::for_images("*/ct.nii").unwrap();
        let found = folders.cases(root).unwrap();
        assert_eq!(found, [("p".to_owned(), root.join("p/ct.nii"))]);
        let labels = Pattern::for_labels("i/ct_{case}.nii").unwrap();
        assert_eq!(
            unpaired(root, &labels, &HashSet::from(["a"])),
            [root.join("i/ct_b.nii")]
        );
    }

    #[test]
    fn a_repeated_id_must_agree_and_structures_are_listed_per_case() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        touch(
            root,
            &[
                "a/a_ct.nii",
                "b/a_ct.nii",
                "a/m/a/liver.nii",
                "a/m/a/spleen.nii",
                "a/m/a/x.txt",
            ],
        );
        let images = Pattern::for_images("{case}/{case}_ct.nii").unwrap();
        assert_eq!(ids(images.cases(root).unwrap()), ["a"]);
        let masks = Pattern::for_labels("{case}/m/{case}/{structure}.nii").unwrap();
        assert_eq!(
            ids(masks.structures(root, "a").unwrap()),
            ["liver", "spleen"]
        );
        assert_eq!(masks.structures(root, "b").unwrap(), []);
    }

    #[test]
    fn invalid_patterns_are_refused() {
        let images = |text| Pattern::for_images(text).unwrap_err();
        assert!(images("a/*/*.nii").contains("more than one place"));
        assert!(images("a/b.nii").contains("{case}"));
        assert!(images("/a/*.nii").contains("absolute"));
        assert!(images("a/{structure}/*.nii").contains("images"));
        assert!(images("{case}{case}.nii").contains("two placeholders"));
        assert!(
            Pattern::for_labels("l/*.nii")
                .unwrap_err()
                .contains("{case}")
        );
        assert!(
            Pattern::for_labels("{case}/{structure}/{structure}")
                .unwrap_err()
                .contains("once")
        );
    }
}
