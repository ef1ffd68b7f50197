//! Finds label maps in folders: those of `predict`, possibly in subfolders, and references in the same layout.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::dataset::case_names::case_paths;
use ctseg_base::text::os_text::{paths, to_text};
use ctseg_base::{Error, Result, regular_file};
use ctseg_image::formats::{case_file, case_name, file_stem, is_volume_name};

/// Suffixes of other files that `predict` writes next to a label map.
const COMPANION_SUFFIXES: [&str; 2] = ["_probabilities", "_entropy"];

/// A label map found in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelMapFile {
    /// Its path relative to the folder, without an extension.
    pub name: String,
    /// The case name that `predict` would give a volume at this path, see [`case_paths`].
    pub case: String,
    pub path: PathBuf,
    /// Whether it is in a subfolder.
    pub nested: bool,
    /// Whether `predict` wrote it, according to its sidecar.
    pub predicted: bool,
}

/// How deep to search for label maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Only the folder itself.
    Folder,
    /// Subfolders as well.
    Recursive,
}

/// All label maps of a folder, sorted by name, or the single file. Other outputs of `predict`
/// (probabilities, entropies, masks of the structures) and hidden files are left out; if it wrote
/// only masks, `path` is that of the label map it would have written.
///
/// # Errors
/// `path` does not exist, or a folder cannot be read.
pub fn label_maps(path: &Path, depth: Depth) -> Result<Vec<LabelMapFile>> {
    let mut found = Vec::new();
    if path.is_dir() {
        let mut seen = HashSet::new();
        search(path, None, depth, &mut seen, &mut found)?;
    } else if !path.exists() {
        return Err(Error::file(
            path,
            "does not exist; expected a label map or a folder of them",
        ));
    } else if is_volume_name(path) {
        found.push(path.to_path_buf());
    }
    let cases = case_paths(&found).into_iter().map(to_text);
    let mut maps: Vec<LabelMapFile> = found
        .iter()
        .zip(cases)
        .map(|(file, case)| {
            let below = file.strip_prefix(path).unwrap_or(file);
            let own = case_file(below, "");
            LabelMapFile {
                name: match path.is_dir() {
                    true => to_text(&own),
                    false => case_name(path).unwrap_or_default(),
                },
                case,
                nested: path.is_dir() && own.components().count() > 1,
                predicted: sidecar(file).is_some(),
                path: file.clone(),
            }
        })
        .collect();
    maps.sort_by(|a, b| (&a.name, &a.path).cmp(&(&b.name, &b.path)));
    Ok(maps)
}

/// The fields of a sidecar that are used here.
#[derive(Deserialize)]
struct Sidecar {
    #[serde(rename = "input_sha256")]
    _input_sha256: String,
    #[serde(default, with = "paths")]
    files: Vec<PathBuf>,
}

fn sidecar(label_map: &Path) -> Option<Sidecar> {
    serde_json::from_slice(&regular_file::read(&case_file(label_map, ".json")).ok()?).ok()
}

/// Adds the label maps of `folder`; visits each real folder once, even through links. `of_case` is the case that the
/// folder is named after and whose masks it may hold.
fn search(
    folder: &Path,
    of_case: Option<&Path>,
    depth: Depth,
    seen: &mut HashSet<PathBuf>,
    found: &mut Vec<PathBuf>,
) -> Result<()> {
    let read = Error::io(folder, "read the folder");
    if !seen.insert(folder.canonicalize().map_err(read)?) {
        return Ok(());
    }
    let entries = std::fs::read_dir(folder).map_err(Error::io(folder, "read the folder"))?;
    let visible = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| !is_hidden(path));
    let (folders, files): (Vec<PathBuf>, Vec<PathBuf>) = visible.partition(|path| path.is_dir());
    let volumes = files.iter().filter(|file| is_volume_name(file));
    let volumes: Vec<&PathBuf> = volumes.collect();
    let stems: BTreeSet<&OsStr> = volumes.iter().filter_map(|file| file_stem(file)).collect();
    let is_case = |folder: &Path, name: &OsStr| {
        stems.contains(name) || sidecar(&as_label_map(folder)).is_some()
    };
    for file in &volumes {
        let companion_of = file_stem(file).and_then(|stem| {
            let mut cases = COMPANION_SUFFIXES
                .iter()
                .filter_map(|end| without(stem, end));
            cases.find(|case| is_case(&file.with_file_name(case), case))
        });
        let is_mask = of_case.is_some_and(|case| is_mask_of(case, file));
        if companion_of.is_none() && !is_mask {
            found.push((*file).clone());
        }
    }
    // Masks without a label map: the case is named as for the label map.
    for file in files
        .iter()
        .filter(|file| file.extension() == Some(OsStr::new("json")))
    {
        let (Some(case), label_map) = (file.file_stem(), file.with_extension("nii.gz")) else {
            continue;
        };
        let has_masks = |sidecar: Sidecar| sidecar.files.iter().any(|own| own.starts_with(case));
        if !stems.contains(case) && sidecar(&label_map).is_some_and(has_masks) {
            found.push(label_map);
        }
    }
    if depth == Depth::Folder {
        return Ok(());
    }
    for subfolder in folders {
        let name = subfolder.file_name().unwrap_or_default();
        let of_case = is_case(&subfolder, name).then(|| as_label_map(&subfolder));
        search(&subfolder, of_case.as_deref(), depth, seen, found)?;
    }
    Ok(())
}

/// The path of the label map of the case that a folder is named after.
fn as_label_map(folder: &Path) -> PathBuf {
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    name.push(".nii.gz");
    folder.with_file_name(name)
}

/// Whether a file in a case's folder is the mask of a structure: listed in the case's sidecar, or, without one, a file
/// that has no sidecar of its own.
fn is_mask_of(case: &Path, file: &Path) -> bool {
    let below = case
        .parent()
        .and_then(|folder| file.strip_prefix(folder).ok());
    match (sidecar(case), below) {
        (Some(sidecar), Some(below)) => sidecar.files.iter().any(|own| own == below),
        _ => sidecar(file).is_none(),
    }
}

fn without<'a>(stem: &'a OsStr, end: &str) -> Option<&'a OsStr> {
    let case = stem.as_bytes().strip_suffix(end.as_bytes())?;
    Some(OsStr::from_bytes(case))
}

fn is_hidden(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.as_bytes().starts_with(b".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }

    fn found(folder: &Path) -> Vec<(String, String, bool)> {
        let maps = label_maps(folder, Depth::Recursive).unwrap().into_iter();
        maps.map(|map| (map.name, map.case, map.predicted))
            .collect()
    }

    fn row(name: &str, case: &str, predicted: bool) -> (String, String, bool) {
        (name.to_owned(), case.to_owned(), predicted)
    }

    #[test]
    fn nested_label_maps_are_found_and_other_outputs_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let sidecar = r#"{"input_sha256": "x", "files": ["ct.nii.gz", "ct/liver.nii.gz"]}"#;
        let masks_alone = r#"{"input_sha256": "x", "files": ["m/liver.nii.gz"]}"#;
        write(
            folder.path(),
            &[
                ("a/p1/ct.nii.gz", ""),
                ("a/p1/ct.json", sidecar),
                ("a/p1/ct/liver.nii.gz", ""),
                ("a/p1/ct_entropy.nii.gz", ""),
                ("a/p1/ct_probabilities.nii.gz", ""),
                ("b/p1/ct.nii.gz", ""),
                // Masks without a label map, masks of another program, hidden files.
                ("m/liver.nii.gz", ""),
                ("m.json", masks_alone),
                ("other.nii.gz", ""),
                ("other/liver.nii.gz", ""),
                ("my_entropy.nii.gz", ""),
                (".x.nii.gz", ""),
                ("summary.json", "{}"),
            ],
        );
        assert_eq!(
            found(folder.path()),
            [
                row("a/p1/ct", "a/p1/ct", true),
                row("b/p1/ct", "b/p1/ct", false),
                row("m", "m", true),
                row("my_entropy", "my_entropy", false),
                row("other", "other", false),
            ]
        );
    }

    #[test]
    fn a_map_named_after_its_folder_has_both_names() {
        let folder = tempfile::tempdir().unwrap();
        write(
            folder.path(),
            &[
                ("t1/seg.nii", ""),
                ("t2/seg.nii", ""),
                ("b.nii", ""),
                ("b.nii.gz", ""),
            ],
        );
        assert_eq!(
            found(folder.path()),
            [
                row("b", "b", false),
                row("b", "b", false),
                row("t1/seg", "t1", false),
                row("t2/seg", "t2", false),
            ]
        );
        assert!(label_maps(&folder.path().join("none"), Depth::Recursive).is_err());
        let one = label_maps(&folder.path().join("t1/seg.nii"), Depth::Recursive).unwrap();
        assert_eq!((one[0].name.as_str(), one[0].nested), ("seg", false));
    }
}
