//! File types that are not volumes, identified by their first bytes, and what to do about them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::source::{START_BYTES, Source};
use ctseg_base::pointer_file;

/// A file type that cannot be read as a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Foreign {
    /// For example `a DICOM file`.
    pub name: &'static str,
    /// What to do, in the imperative.
    pub remedy: &'static str,
}

impl Foreign {
    /// Whether it is an image or an archive of images, rather than some other file stored beside them.
    pub(super) fn is_image_or_archive(&self) -> bool {
        self.remedy != EXPORT
    }
}

const CONVERT: &str =
    "convert it to NIfTI, for example SimpleITK.WriteImage(SimpleITK.ReadImage(FILE), 'x.nii.gz')";
const UNPACK: &str = "unpack it first";
const SURFACE: &str = "pass the volume, not a surface";
const PICTURE: &str = "pass a CT volume; a picture has no Hounsfield units";
const EXPORT: &str = "pass the image itself";

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
    (b"PK\x05\x06", "an empty zip archive", UNPACK),
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
    (
        b"\xff\xff\xff",
        "FreeSurfer per-vertex surface values",
        SURFACE,
    ),
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

/// The file type of content that begins with `start` (up to [`START_BYTES`] bytes); `None` if unknown.
pub(crate) fn foreign(start: &[u8]) -> Option<Foreign> {
    let known = |name: &'static str, remedy: &'static str| Some(Foreign { name, remedy });
    if let Some((name, remedy)) = pointer_file::detect(start) {
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
            "a web page, probably a failed download",
            "download the image again; the site may require a login",
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
            "all zeros where the header should be, as after an interrupted copy",
            "copy or export it again",
        );
    }
    None
}

/// `DICM` after the preamble or, in files without a preamble, a first element of group 0002 or 0008.
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

/// At most this many files of a folder are examined.
const MAX_FILES: usize = 2000;

/// Subfolders are searched down to this depth.
const MAX_DEPTH: usize = 4;

/// Describes the most common known file type in a folder without volumes, for the error about it:
/// `IM0000 is a DICOM file (the first of 5 such files): convert …`. `None` if no file is of a known type.
pub fn foreign_files(folder: &Path) -> Option<String> {
    let mut kinds: BTreeMap<Foreign, (usize, PathBuf)> = BTreeMap::new();
    let mut examined = 0;
    collect(folder, MAX_DEPTH, &mut examined, &mut kinds);
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
    examined: &mut usize,
    kinds: &mut BTreeMap<Foreign, (usize, PathBuf)>,
) {
    // Skip what cannot be read.
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() && depth > 0 {
            collect(&path, depth - 1, examined, kinds);
        }
        if *examined >= MAX_FILES {
            return;
        }
        if !path.is_file() {
            continue;
        }
        *examined += 1;
        if let Some(kind) = kind_of(&path) {
            kinds.entry(kind).or_insert((0, path)).0 += 1;
        }
    }
}

/// The file type, if it is an image or an archive.
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
    fn other_file_types_are_named() {
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
            (&[0; START_BYTES], "all zeros"),
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
    fn a_folder_is_described_by_its_most_common_file_type() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(foreign_files(folder.path()), None);
        std::fs::write(folder.path().join("notes.txt"), "x").unwrap();
        std::fs::write(folder.path().join("a.json"), "{}").unwrap();
        assert_eq!(foreign_files(folder.path()), None);
        std::fs::write(folder.path().join("a.nrrd"), "NRRD0004\n").unwrap();
        let message = foreign_files(folder.path()).unwrap();
        assert!(
            message.starts_with("a.nrrd is an NRRD image: convert"),
            "{message}"
        );
        let series = folder.path().join("series");
        std::fs::create_dir(&series).unwrap();
        for slice in 0..3 {
            let bytes = [vec![0; 128], b"DICM".to_vec()].concat();
            std::fs::write(series.join(format!("IM{slice}")), bytes).unwrap();
        }
        let message = foreign_files(folder.path()).unwrap();
        assert!(
            message.starts_with("series/IM0 is a DICOM file (the first of 3 such files): convert"),
            "{message}"
        );
    }
}
