//! Files of other kinds, known by their first bytes, and what can be done with them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::source::{START_BYTES, Source};
use ctseg_base::pointer_file;

/// A kind of file that is no volume here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Foreign {
    /// Such as `a DICOM file`.
    pub name: &'static str,
    /// What to do, an imperative.
    pub remedy: &'static str,
}

impl Foreign {
    /// Whether it is an image or holds some, and is not just a file that lies beside them.
    pub(super) fn is_image_or_archive(&self) -> bool {
        self.remedy != EXPORT
    }
}

const CONVERT: &str =
    "convert it to NIfTI, for example SimpleITK.WriteImage(SimpleITK.ReadImage(FILE), 'x.nii.gz')";
const UNPACK: &str = "unpack it first";
const SURFACE: &str = "name the volume, not a surface";
const PICTURE: &str = "name a CT volume; a picture has no Hounsfield units";
const EXPORT: &str = "name the image itself";

const DICOM: Foreign = Foreign {
    name: "a DICOM file",
    remedy: "convert its series to NIfTI, for example dcm2niix -z y -o OUTPUT_FOLDER SERIES_FOLDER",
};

const META_IMAGE: Foreign = Foreign {
    name: "a MetaImage file",
    remedy: CONVERT,
};

/// First bytes, name, remedy.
const KNOWN: [(&[u8], &str, &str); 28] = [
    (
        b"\x1f\x8b",
        "gzip data inside gzip data",
        "decompress it once (gunzip)",
    ),
    (b"NRRD", "an NRRD image", CONVERT),
    (b"ObjectType", META_IMAGE.name, CONVERT),
    (b"NDims", META_IMAGE.name, CONVERT),
    (b"PK\x03\x04", "a zip archive", UNPACK),
    (b"PK\x05\x06", "a zip archive without content", UNPACK),
    (b"Rar!", "a RAR archive", UNPACK),
    (b"7z\xbc\xaf", "a 7z archive", UNPACK),
    (b"BZh", "a bzip2 file", UNPACK),
    (b"\xfd7zXZ", "an xz file", UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd file", UNPACK),
    (
        b"\x89HDF",
        "an HDF5 (MINC or MATLAB) file",
        "convert it to NIfTI (mnc2nii, or save it from MATLAB with niftiwrite)",
    ),
    (
        b"CDF\x01",
        "a NetCDF (MINC) file",
        "convert it to NIfTI (mnc2nii)",
    ),
    (
        b"CDF\x02",
        "a NetCDF (MINC) file",
        "convert it to NIfTI (mnc2nii)",
    ),
    (
        b"MATLAB 5.0",
        "a MATLAB file",
        "save it from MATLAB with niftiwrite",
    ),
    (
        b"\x93NUMPY",
        "a NumPy array, which has no spacing",
        "write it as NIfTI with the affine of its image (nibabel)",
    ),
    (b"\xff\xff\xfe", "a FreeSurfer surface", SURFACE),
    (b"\xff\xff\xff", "FreeSurfer values of a surface", SURFACE),
    (
        b"\0\0\0\x01\0\0",
        "a FreeSurfer MGH volume",
        "convert it to NIfTI (mri_convert FILE x.nii.gz)",
    ),
    (b"\x89PNG", "a PNG picture", PICTURE),
    (b"\xff\xd8\xff", "a JPEG picture", PICTURE),
    (b"II*\0", "a TIFF picture", PICTURE),
    (b"MM\0*", "a TIFF picture", PICTURE),
    (b"%PDF", "a PDF document", EXPORT),
    (b"\x80\x02", "a Python pickle", EXPORT),
    (b"\x80\x04", "a Python pickle", EXPORT),
    (b"{", "a JSON file", EXPORT),
    (b"SQLite", "a database", EXPORT),
];

/// What content that begins with `start` (up to [`START_BYTES`] bytes) is, if it is of a kind that is known.
pub(crate) fn foreign(start: &[u8]) -> Option<Foreign> {
    let known = |name: &'static str, remedy: &'static str| Some(Foreign { name, remedy });
    if let Some((name, remedy)) = pointer_file::known(start) {
        return known(name, remedy);
    }
    if is_dicom(start) {
        return Some(DICOM);
    }
    if let Some((_, name, remedy)) = KNOWN.iter().find(|(first, ..)| start.starts_with(first)) {
        return known(name, remedy);
    }
    let text = String::from_utf8_lossy(start).to_ascii_lowercase();
    let holds = |word: &str| text.contains(word);
    let begins = |word: &str| text.trim_start().starts_with(word);
    if begins("<!doctype html") || begins("<html") {
        return known(
            "a web page, so a download has failed",
            "download the image again, logged in if need be",
        );
    }
    if begins("<") && holds("<gifti") {
        return known("a GIFTI surface", SURFACE);
    }
    if begins("<") {
        return known("an XML file", EXPORT);
    }
    if holds("\ndimsize") || holds("\nelementdatafile") {
        return Some(META_IMAGE);
    }
    if start.get(257..262) == Some(b"ustar") {
        return known("a tar archive", UNPACK);
    }
    if start.len() == START_BYTES && start.iter().all(|byte| *byte == 0) {
        return known(
            "zeros where its header should be, as a copy that broke off leaves them",
            "copy or export it again",
        );
    }
    None
}

/// `DICM` behind the preamble, or, in files without one, a first element of the groups that come first: 0002 and 0008.
fn is_dicom(start: &[u8]) -> bool {
    if start.get(128..132) == Some(b"DICM") {
        return true;
    }
    let Some([group, 0, element, 0, a, b, c, d]) = start.first_chunk::<8>() else {
        return false;
    };
    let has_type = a.is_ascii_uppercase() && b.is_ascii_uppercase();
    let length = u32::from_le_bytes([*a, *b, *c, *d]);
    match (group, element) {
        (2, 0..=0x18) => has_type || length == 4,
        (8, 0 | 1 | 5 | 6 | 8 | 0x12..=0x18 | 0x20) => has_type || length < 128,
        _ => false,
    }
}

/// At most so many files of a folder are looked into.
const MOST_LOOKED_AT: usize = 2000;

/// Folders in a folder are looked into down to this depth.
const DEEPEST: usize = 4;

/// What lies in a folder in which no volume was found, for its error: `it holds 5 DICOM files (IM0000, …); convert …`.
/// None where no file is of a kind that is known.
pub fn foreign_files(folder: &Path) -> Option<String> {
    let mut kinds: BTreeMap<Foreign, (usize, PathBuf)> = BTreeMap::new();
    let mut looked_at = 0;
    collect(folder, DEEPEST, &mut looked_at, &mut kinds);
    let (kind, (count, example)) = kinds.into_iter().max_by_key(|(_, (count, _))| *count)?;
    let example = example
        .strip_prefix(folder)
        .unwrap_or(&example)
        .display()
        .to_string();
    let more = match count {
        1 => String::new(),
        count => format!(" (the first of {count} such files)"),
    };
    Some(format!("{example} is {}{more}: {}", kind.name, kind.remedy))
}

fn collect(
    folder: &Path,
    depth: usize,
    looked_at: &mut usize,
    kinds: &mut BTreeMap<Foreign, (usize, PathBuf)>,
) {
    // What cannot be read says nothing.
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() && depth > 0 {
            collect(&path, depth - 1, looked_at, kinds);
        }
        if *looked_at >= MOST_LOOKED_AT {
            return;
        }
        if !path.is_file() {
            continue;
        }
        *looked_at += 1;
        if let Some(kind) = kind_of(&path) {
            kinds.entry(kind).or_insert((0, path)).0 += 1;
        }
    }
}

/// The kind of a file, where it is one of images or archives.
fn kind_of(path: &Path) -> Option<Foreign> {
    let mut source = Source::open(path, &[]).ok()?;
    let start = source.start().ok()?;
    foreign(&start).filter(Foreign::is_image_or_archive)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(start: &[u8]) -> Option<&'static str> {
        foreign(start).map(|kind| kind.name)
    }

    #[test]
    fn files_of_other_kinds_are_named() {
        let implicit = b"\x08\0\x05\0\x0a\0\0\0ISO_IR 100";
        let explicit = b"\x02\0\0\0UL\x04\0\x10\0\0\0";
        let tar = [vec![b'x'; 257], b"ustar".to_vec()].concat();
        for (start, expected) in [
            (implicit.as_slice(), "a DICOM file"),
            (explicit, "a DICOM file"),
            (b"Comment = a\nDimSize = 2 2 2\n", "a MetaImage file"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 5\n",
                "a Git LFS pointer",
            ),
            (
                b"/annex/objects/SHA256E-s1--0.nii.gz\n",
                "a git-annex pointer",
            ),
            (b"\n<!DOCTYPE html><title>Sign in", "a web page"),
            (
                b"<?xml version=\"1.0\"?>\n<GIFTI Version",
                "a GIFTI surface",
            ),
            (b"\xff\xff\xfecreated by", "a FreeSurfer surface"),
            (&tar, "a tar archive"),
            (&[0; START_BYTES], "zeros"),
        ] {
            let found = name(start).unwrap_or("nothing");
            assert!(found.starts_with(expected), "{found} for {expected}");
        }
        for start in [
            b"".as_slice(),
            b"some text",
            b"\x08\0\x05\0\xff\xff\xff\xff",
            b"\0\0\0\0",
        ] {
            assert_eq!(name(start), None, "{}", start.escape_ascii());
        }
    }

    #[test]
    fn a_folder_is_told_by_what_most_of_its_files_are() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(foreign_files(folder.path()), None);
        std::fs::write(folder.path().join("notes.txt"), "x").unwrap();
        std::fs::write(folder.path().join("a.json"), "{}").unwrap();
        assert_eq!(foreign_files(folder.path()), None);
        std::fs::write(folder.path().join("a.nrrd"), "NRRD0004\n").unwrap();
        let said = foreign_files(folder.path()).unwrap();
        assert!(
            said.starts_with("a.nrrd is an NRRD image: convert"),
            "{said}"
        );
        let series = folder.path().join("series");
        std::fs::create_dir(&series).unwrap();
        for slice in 0..3 {
            let bytes = [vec![0; 128], b"DICM".to_vec()].concat();
            std::fs::write(series.join(format!("IM{slice}")), bytes).unwrap();
        }
        let said = foreign_files(folder.path()).unwrap();
        assert!(
            said.starts_with("series/IM0 is a DICOM file (the first of 3 such files): convert"),
            "{said}"
        );
    }
}
