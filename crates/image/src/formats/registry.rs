//! The list of formats, and functions for files of any of them.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::foreign::foreign;
use super::format::{LabelNames, MaskPiece, VolumeFormat};
use super::header::{VolumeHeader, VolumeImage};
use super::names::{in_words, stem};
use super::source::Source;
use super::voxel_type::VoxelType;
use crate::labels::run_length_labels::LabelRuns;
use crate::nifti::Nifti;
use crate::space::{LabelMap, Volume};
use ctseg_base::Result;
use ctseg_base::text::os_text::to_text;

pub(super) type Formats = [&'static dyn VolumeFormat];

/// Every volume file format. Unrecognised files go to the first, whose error says what they are.
pub static FORMATS: &Formats = &[&Nifti];

/// An open file of a known format, not read yet.
pub struct VolumeReader<'a> {
    format: &'static dyn VolumeFormat,
    source: Source<'a>,
}

impl VolumeReader<'_> {
    /// [`VolumeFormat::read_header`] of its format.
    pub fn read_header(self) -> Result<VolumeHeader> {
        self.format.read_header(self.source)
    }

    /// [`VolumeFormat::read_volume`] of its format.
    pub fn read_volume(self) -> Result<VolumeImage> {
        self.format.read_volume(self.source)
    }

    /// [`VolumeFormat::read_label_map`] of its format.
    pub fn read_label_map(self) -> Result<(VolumeHeader, LabelMap)> {
        self.format.read_label_map(self.source)
    }

    /// [`VolumeFormat::read_label_runs`] of its format.
    pub fn read_label_runs(self) -> Result<(VolumeHeader, LabelRuns)> {
        self.format.read_label_runs(self.source)
    }

    /// [`VolumeFormat::read_label_names`] of its format.
    pub fn read_label_names(self) -> Result<LabelNames> {
        self.format.read_label_names(self.source)
    }
}

/// Opens a file. Its format is detected from its first bytes, otherwise from its name.
pub fn open(path: &Path) -> Result<VolumeReader<'static>> {
    open_as(FORMATS, path)
}

/// [`open`] for a stream of bytes: errors call it `name`; `length` is its size in bytes, if known. Otherwise memory
/// grows as voxels are read.
pub fn from_reader<'a>(
    reader: impl Read + 'a,
    name: &Path,
    length: Option<u64>,
) -> Result<VolumeReader<'a>> {
    identified(FORMATS, Source::from_reader(reader, name, length)?)
}

/// Reads and checks a file's header, see [`VolumeFormat::read_header`].
pub fn read_header(path: &Path) -> Result<VolumeHeader> {
    open(path)?.read_header()
}

/// Reads a volume, see [`VolumeFormat::read_volume`].
pub fn read_volume(path: &Path) -> Result<VolumeImage> {
    open(path)?.read_volume()
}

/// Reads a label map, see [`VolumeFormat::read_label_map`].
pub fn read_label_map(path: &Path) -> Result<(VolumeHeader, LabelMap)> {
    open(path)?.read_label_map()
}

/// Reads a label map's runs, see [`VolumeFormat::read_label_runs`].
pub fn read_label_runs(path: &Path) -> Result<(VolumeHeader, LabelRuns)> {
    open(path)?.read_label_runs()
}

/// Reads the label names stored in a label map, see [`VolumeFormat::read_label_names`].
pub fn read_label_names(path: &Path) -> Result<LabelNames> {
    open(path)?.read_label_names()
}

/// Writes a volume in the format of the file's name, see [`VolumeFormat::write_volume`].
pub fn write_volume(path: &Path, volume: &Volume, voxel_type: VoxelType) -> Result<()> {
    format_for_name(FORMATS, path).write_volume(path, volume, voxel_type)
}

/// Writes a label map in the format of the file's name, see [`VolumeFormat::write_label_map`].
pub fn write_label_map(
    path: &Path,
    labels: &LabelMap,
    source: &VolumeHeader,
    names: &LabelNames,
) -> Result<()> {
    format_for_name(FORMATS, path).write_label_map(path, labels, source, names)
}

/// Writes a mask in the format of the file's name, see [`VolumeFormat::write_mask`].
pub fn write_mask(path: &Path, source: &VolumeHeader, mask: &MaskPiece) -> Result<()> {
    format_for_name(FORMATS, path).write_mask(path, source, mask)
}

impl Volume {
    /// Reads a volume of any format, as SimpleITK's `ReadImage`; [`read_volume`] also returns its header.
    ///
    /// # Errors
    /// Those of [`VolumeFormat::read_volume`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Ok(read_volume(path.as_ref())?.volume)
    }

    /// Writes the voxels as `voxel_type`, in the format of the file's name.
    ///
    /// # Errors
    /// Those of [`VolumeFormat::write_volume`].
    pub fn save(&self, path: impl AsRef<Path>, voxel_type: VoxelType) -> Result<()> {
        write_volume(path.as_ref(), self, voxel_type)
    }
}

impl LabelMap {
    /// Reads a label map of any format; [`read_label_map`] also returns its header.
    ///
    /// # Errors
    /// Those of [`VolumeFormat::read_label_map`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Ok(read_label_map(path.as_ref())?.1)
    }

    /// Writes the labels with a new header, in the format of the file's name. [`write_label_map`] copies the header of
    /// their image instead, so that its placement is kept bit for bit.
    ///
    /// # Errors
    /// Those of [`VolumeFormat::write_label_map`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let header = VolumeHeader::new(self.grid, VoxelType::U16);
        write_label_map(path.as_ref(), self, &header, &LabelNames::new())
    }
}

/// The file name without its folder and without a volume's ending such as `.nii.gz` (case-insensitive).
///
/// `None` if the name has another ending, or nothing before the ending.
pub fn file_stem(path: &Path) -> Option<&OsStr> {
    stem(path, &endings(FORMATS))
}

/// [`file_stem`] as text, see [`to_text`].
pub fn case_name(path: &Path) -> Option<String> {
    file_stem(path).map(to_text)
}

/// The file beside a label map (or volume) that is named after the same case and ends in `ending`; with an empty
/// ending, a folder.
pub fn case_file(label_map: &Path, ending: &str) -> PathBuf {
    let mut name = file_stem(label_map)
        .unwrap_or(OsStr::new("case"))
        .to_owned();
    name.push(ending);
    label_map.with_file_name(name)
}

/// Whether the file name is a volume's: a non-empty stem, then an ending of one of the formats.
pub fn is_volume_name(path: &Path) -> bool {
    file_stem(path).is_some()
}

/// Whether a file's content is a volume, or an image or archive of another type, which [`open`]'s error names.
pub fn is_volume_or_foreign(path: &Path) -> bool {
    let start = || Source::open(path, &endings(FORMATS)).ok()?.start().ok();
    start().is_some_and(|start| {
        let mut formats = FORMATS.iter();
        formats.any(|format| format.identify(&start))
            || foreign(&start).is_some_and(|kind| kind.is_image_or_archive())
    })
}

/// The file endings of all formats, with their dot.
pub fn volume_endings() -> Vec<&'static str> {
    endings(FORMATS)
}

/// The file endings of all formats, for messages: `.nii or .nii.gz`.
pub fn endings_in_words() -> String {
    in_words(&endings(FORMATS))
}

pub(super) fn endings(formats: &Formats) -> Vec<&'static str> {
    let each = formats.iter().flat_map(|format| format.endings());
    each.copied().collect()
}

pub(super) fn open_as(formats: &Formats, path: &Path) -> Result<VolumeReader<'static>> {
    identified(formats, Source::open(path, &endings(formats))?)
}

pub(super) fn identified<'a>(
    formats: &Formats,
    mut source: Source<'a>,
) -> Result<VolumeReader<'a>> {
    let start = source.start()?;
    let by_content = formats.iter().find(|format| format.identify(&start));
    let format = by_content
        .copied()
        .unwrap_or_else(|| format_for_name(formats, source.name()));
    Ok(VolumeReader { format, source })
}

/// The format that matches the file name; the first format if none does.
pub(super) fn format_for_name(formats: &Formats, path: &Path) -> &'static dyn VolumeFormat {
    let named = |format: &&&dyn VolumeFormat| stem(path, format.endings()).is_some();
    formats.iter().find(named).copied().unwrap_or(formats[0])
}
