//! Glob patterns such as `scans/**/*.nii.gz`, matched folder by folder on names of any bytes.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use ctseg_base::text::os_text::to_text;
use ctseg_base::{Error, Result};

/// Any number of folders.
const ANY: &str = "**";

/// Whether a path contains a glob character.
pub(super) fn is_pattern(text: &Path) -> bool {
    let bytes = text.as_os_str().as_bytes();
    bytes.iter().any(|byte| b"*?[".contains(byte))
}

/// Files and folders that match `pattern`, relative to `from`, in order; hidden ones only if the pattern has the
/// leading dot. `**` does not follow links.
///
/// # Errors
/// An invalid pattern.
pub(super) fn matching(from: &Path, pattern: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![from.to_path_buf()];
    for part in pattern.components() {
        let name = to_text(part);
        found = match part {
            Component::Normal(_) if name == ANY => {
                let mut seen = HashSet::new();
                let mut below = Vec::new();
                for folder in found {
                    descend(folder, &mut seen, &mut below);
                }
                below
            }
            Component::Normal(part) if is_pattern(Path::new(part)) => {
                let matcher = matcher(pattern, &name)?;
                let matches = |path: &PathBuf| {
                    let name = path.file_name().unwrap_or_default();
                    // A byte that is not UTF-8 matches `?`, and its escaped form matches a pattern that contains it.
                    [to_text(name), name.to_string_lossy().into_owned()]
                        .iter()
                        .any(|name| matcher.matches_with(name, OPTIONS))
                };
                let all = found.iter().flat_map(|folder| entries(folder));
                all.filter(matches).collect()
            }
            part => {
                let paths = found.into_iter().map(|folder| folder.join(part));
                paths
                    .filter(|path| path.symlink_metadata().is_ok())
                    .collect()
            }
        };
    }
    Ok(found)
}

const OPTIONS: glob::MatchOptions = glob::MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

fn matcher(whole: &Path, name: &str) -> Result<glob::Pattern> {
    glob::Pattern::new(name).map_err(|error| {
        Error::invalid(format!("{}: not a file pattern: {error}", whole.display()))
    })
}

/// The entries of a folder, sorted; empty if it cannot be listed.
fn entries(folder: &Path) -> Vec<PathBuf> {
    // An empty path is the working folder and does not become part of the names.
    let listed = match folder.as_os_str().is_empty() {
        true => Path::new("."),
        false => folder,
    };
    let entries = std::fs::read_dir(listed).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| folder.join(entry.file_name()))
        .collect();
    paths.sort();
    paths
}

/// Adds a folder and all folders below it, each once.
fn descend(folder: PathBuf, seen: &mut HashSet<PathBuf>, found: &mut Vec<PathBuf>) {
    if !seen.insert(folder.clone()) {
        return;
    }
    let below = entries(&folder);
    found.push(folder);
    for path in below {
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_bytes().starts_with(b"."));
        let is_folder = path.symlink_metadata().is_ok_and(|kind| kind.is_dir());
        if is_folder && !hidden {
            descend(path, seen, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn patterns_match_names_of_any_bytes_and_hidden_ones_only_with_a_dot() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &[u8]| {
            let path = folder.path().join(OsStr::from_bytes(name));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            path
        };
        let latin1 = write(b"a/M\xfcller.nii");
        let deep = write(b"a/b/c/x.nii");
        let hidden = write(b"a/.y.nii");
        write(b".h/z.nii");
        std::os::unix::fs::symlink("..", folder.path().join("a/loop")).unwrap();
        let found = |pattern: &str| matching(folder.path(), Path::new(pattern)).unwrap();
        let only = std::slice::from_ref::<PathBuf>;
        assert_eq!(found("a/*.nii"), only(&latin1));
        assert_eq!(found("**/*.nii"), [latin1.clone(), deep.clone()]);
        assert_eq!(found("a/**/x.nii"), only(&deep));
        assert_eq!(found("?/[a-c]/*/x.nii"), [deep]);
        assert_eq!(found("*/.*.nii"), [hidden]);
        assert_eq!(found("a/M?ller.nii"), only(&latin1));
        assert_eq!(found("a/no*/x.nii"), [""; 0].map(PathBuf::from));
        let of_bytes = OsStr::from_bytes(b"a/M\xfc*");
        assert_eq!(
            matching(folder.path(), Path::new(of_bytes)).unwrap(),
            [latin1]
        );
        let error = matching(folder.path(), Path::new("a/[x")).unwrap_err();
        assert!(
            error.to_string().contains("a/[x: not a file pattern"),
            "{error}"
        );
    }
}
