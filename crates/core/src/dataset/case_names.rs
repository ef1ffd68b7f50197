//! Names the case of a volume's file: one rule for datasets, prediction, evaluation and conversion.
//!
//! Networks take one channel, so every file is a case. nnU-Net's channel suffix `_0000` is dropped from the name if the
//! case has no other file: `liver_0000.nii.gz` is the case `liver`, but `vol_0000.nii.gz` to
//! `vol_0011.nii.gz` are one case each.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ctseg_base::atomic_file::parent_of;
use ctseg_image::formats::file_stem;

/// The image of each case in TotalSegmentator's dataset, and the folder of masks beside it.
pub(super) const TOTAL_SEGMENTATOR: (&str, &str) = ("ct.nii.gz", "segmentations");

/// Names cases; each folder is listed only once.
#[derive(Default)]
pub struct CaseNames {
    /// File stems that are treated as present, by folder.
    named: HashMap<PathBuf, BTreeSet<OsString>>,
    folders: HashMap<PathBuf, FolderListing>,
}

/// The volumes in a folder.
struct FolderListing {
    /// File names without their extension.
    stems: BTreeSet<OsString>,
    /// Names before a channel suffix other than `_0000`.
    numbered: BTreeSet<OsString>,
}

impl CaseNames {
    /// For files that need not exist, such as those of a list.
    pub fn of(files: &[PathBuf]) -> Self {
        let mut named: HashMap<PathBuf, BTreeSet<OsString>> = HashMap::new();
        for file in files {
            if let Some(stem) = file_stem(file) {
                let folder = named.entry(parent_of(file).to_path_buf()).or_default();
                folder.insert(stem.to_owned());
            }
        }
        Self {
            named,
            folders: HashMap::new(),
        }
    }

    /// The case's name: the file name without a volume's extension (other names are kept whole) and without `_0000`,
    /// unless a volume in the same folder has the same name with another channel suffix, or with none.
    pub fn case(&mut self, file: &Path) -> OsString {
        let Some(stem) = file_stem(file) else {
            return file.file_name().unwrap_or(file.as_os_str()).to_owned();
        };
        let Some((case, 0)) = channel(stem) else {
            return stem.to_owned();
        };
        let folder = parent_of(file);
        let named = &self.named;
        let beside = self
            .folders
            .entry(folder.to_path_buf())
            .or_insert_with(|| FolderListing::of(folder, named.get(folder)));
        match beside.numbered.contains(case) || beside.stems.contains(case) {
            true => stem.to_owned(),
            false => case.to_owned(),
        }
    }
}

impl FolderListing {
    /// The volumes found in `folder`, and the `named` stems.
    fn of(folder: &Path, named: Option<&BTreeSet<OsString>>) -> Self {
        let listed = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let listed = listed.filter_map(|entry| Some(file_stem(&entry.path())?.to_owned()));
        let stems: BTreeSet<OsString> =
            listed.chain(named.into_iter().flatten().cloned()).collect();
        let number = |stem: &OsString| match channel(stem)? {
            (_, 0) => None,
            (case, _) => Some(case.to_owned()),
        };
        Self {
            numbered: stems.iter().filter_map(number).collect(),
            stems,
        }
    }
}

/// The case's name and channel number in nnU-Net's notation `case_0000`.
fn channel(stem: &OsStr) -> Option<(&OsStr, u16)> {
    let bytes = stem.as_bytes();
    let (case, number) = bytes.split_at(bytes.len().checked_sub("_0000".len())?);
    let digits = number.strip_prefix(b"_")?;
    let number = std::str::from_utf8(digits).ok()?;
    let plain = digits.iter().all(u8::is_ascii_digit) && !case.is_empty();
    plain.then(|| Some((OsStr::from_bytes(case), number.parse().ok()?)))?
}

/// Case names of a set of volumes, as paths without an extension: [`CaseNames::case`], or for volumes that
/// share a name (`s0001/ct.nii.gz`, `s0002/ct.nii.gz`) the names of their folders; if those are equal too, their
/// paths below the common folder. A single image in TotalSegmentator's layout is named after its
/// folder. Volumes that differ only in their extension remain the same case.
pub fn case_paths(files: &[PathBuf]) -> Vec<PathBuf> {
    let mut names = CaseNames::of(files);
    let mut cases: Vec<PathBuf> = files.iter().map(|file| names.case(file).into()).collect();
    let mut groups: BTreeMap<PathBuf, Vec<usize>> = BTreeMap::new();
    for (index, case) in cases.iter().enumerate() {
        groups.entry(case.clone()).or_default().push(index);
    }
    let kept: BTreeSet<PathBuf> = groups.keys().cloned().collect();
    let shared: Vec<Vec<usize>> = groups
        .into_values()
        .filter(|group| group.len() > 1)
        .collect();
    let mut of_folders: BTreeMap<Option<&OsStr>, usize> = BTreeMap::new();
    for index in shared.iter().flatten() {
        *of_folders.entry(folder_name(&files[*index])).or_insert(0) += 1;
    }
    for group in shared {
        let is_free = |index: &usize| {
            let name = folder_name(&files[*index]);
            let alone = of_folders.get(&name) == Some(&1);
            name.is_some_and(|name| alone && !kept.contains(Path::new(name)))
        };
        if group.iter().all(is_free) {
            for index in group {
                cases[index] = folder_name(&files[index]).unwrap_or_default().into();
            }
        } else {
            let folders: Vec<PathBuf> = group.iter().map(|i| real_folder(&files[*i])).collect();
            let common = common_folder(&folders);
            for (index, folder) in group.into_iter().zip(&folders) {
                let own = folder.strip_prefix(&common).unwrap_or(Path::new(""));
                cases[index] = own.join(&cases[index]);
            }
        }
    }
    let taken: BTreeSet<PathBuf> = cases.iter().cloned().collect();
    for (case, file) in cases.iter_mut().zip(files) {
        let folder = of_total_segmentator(file, case).map(PathBuf::from);
        if let Some(folder) = folder.filter(|folder| !taken.contains(folder)) {
            *case = folder;
        }
    }
    cases
}

/// The folder's name for an image in TotalSegmentator's layout, where every image has the same file name.
fn of_total_segmentator(file: &Path, case: &Path) -> Option<OsString> {
    let (image, masks) = TOTAL_SEGMENTATOR;
    if file.file_name()? != image || Some(case.as_os_str()) != file_stem(file) {
        return None;
    }
    let folder = real_folder(file);
    let name = folder.file_name()?;
    let number = name.as_bytes().strip_prefix(b"s");
    let published = number.is_some_and(|it| it.len() == 4 && it.iter().all(u8::is_ascii_digit));
    (published || folder.join(masks).is_dir()).then(|| name.to_owned())
}

fn folder_name(file: &Path) -> Option<&OsStr> {
    file.parent().and_then(Path::file_name)
}

fn real_folder(file: &Path) -> PathBuf {
    let folder = parent_of(file);
    folder
        .canonicalize()
        .unwrap_or_else(|_| folder.to_path_buf())
}

/// The deepest folder that contains all `folders`.
fn common_folder(folders: &[PathBuf]) -> PathBuf {
    let mut common = folders.first().cloned().unwrap_or_default();
    for folder in folders {
        while !folder.starts_with(&common) && common.pop() {}
    }
    common
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(files: &[&str]) -> Vec<String> {
        let files: Vec<PathBuf> = files.iter().map(PathBuf::from).collect();
        let names = case_paths(&files).into_iter();
        names.map(|name| name.display().to_string()).collect()
    }

    #[test]
    fn shared_names_are_distinguished_by_folders() {
        for (files, expected) in [
            (vec!["a/x.nii", "b/y.nii.gz"], vec!["x", "y"]),
            (
                vec!["t1/ct.nii.gz", "t2/ct.nii.gz", "z/other.nii"],
                vec!["t1", "t2", "other"],
            ),
            (
                vec!["p1/t1/ct.nii.gz", "p1/t2/ct.nii.gz", "p2/t1/ct.nii.gz"],
                vec!["p1/t1/ct", "p1/t2/ct", "p2/t1/ct"],
            ),
            // A folder named like another file; two names in the same two folders; folders named like volumes.
            (
                vec!["p/t1/ct.nii", "p/t2/ct.nii", "t1.nii"],
                vec!["t1/ct", "t2/ct", "t1"],
            ),
            (
                vec!["t1/a.nii", "t2/a.nii", "t1/b.nii", "t2/b.nii"],
                vec!["t1/a", "t2/a", "t1/b", "t2/b"],
            ),
            (vec!["a.nii/x.nii", "b.nii/x.nii"], vec!["a.nii", "b.nii"]),
            (vec!["noname", "x.mha"], vec!["noname", "x.mha"]),
            // In one folder, differing only in their extension.
            (
                vec!["s/a.nii", "s/a.nii.gz", "t/a.nii"],
                vec!["s/a", "s/a", "t/a"],
            ),
        ] {
            assert_eq!(named(&files), expected);
        }
    }

    #[test]
    fn the_channel_suffix_is_dropped_if_a_case_has_no_other_file() {
        for (files, expected) in [
            (
                vec!["case_0000.nii.gz", "x_00000.nii", "y_0007.nii", "_0000.nii"],
                vec!["case", "x_00000", "y_0007", "_0000"],
            ),
            (
                vec!["v_0000.nii.gz", "v_0001.nii", "w_0000.nii.gz"],
                vec!["v_0000", "v_0001", "w"],
            ),
            // A suffix in another folder does not count.
            (
                vec!["a/c_0000.nii.gz", "b/c_0001.nii.gz"],
                vec!["c", "c_0001"],
            ),
            (vec!["c_0000.nii.gz", "c.nii"], vec!["c_0000", "c"]),
        ] {
            assert_eq!(named(&files), expected);
        }
        // Files in the same folder count even if they are not listed.
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in [
            "v_0000.nii.gz",
            "v_0003.nii.gz",
            "w_0000.nii.gz",
            "._w_0001.nii.gz",
        ] {
            std::fs::write(at(name), "").unwrap();
        }
        let mut names = CaseNames::default();
        assert_eq!(names.case(&at("v_0000.nii.gz")), "v_0000");
        assert_eq!(names.case(&at("w_0000.nii.gz")), "w");
    }

    #[test]
    fn images_of_total_segmentator_are_named_after_their_folders() {
        assert_eq!(named(&["x/s0000/ct.nii.gz"]), ["s0000"]);
        assert_eq!(named(&["x/scan/ct.nii.gz"]), ["ct"]);
        assert_eq!(named(&["x/s0000/ct.nii.gz", "s0000.nii"]), ["ct", "s0000"]);
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("patient/segmentations")).unwrap();
        let image = folder.path().join("patient/ct.nii.gz");
        assert_eq!(case_paths(&[image]), [Path::new("patient")]);
    }

    #[test]
    fn non_utf8_names_are_cases() {
        let name = |bytes| OsStr::from_bytes(bytes);
        let mut names = CaseNames::default();
        let case = names.case(Path::new(name(b"a/M\xfcller_0000.nii.gz")));
        assert_eq!(case, name(b"M\xfcller"));
    }
}
