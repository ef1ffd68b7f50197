//! Checks one case before it is written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::job::{Conversion, Overlaps};
use super::labels::Labels;
use ctseg_base::memory_semaphore::{MemoryPermit, MemorySemaphore};
use ctseg_base::text::os_text::{from_text, to_text};
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::{Case, Dataset, LabelSource, count_values, unknown_values};
use ctseg_image::formats::read_label_map;
use ctseg_image::nifti;
use ctseg_image::nifti::{NiftiHeader, Version};
use ctseg_image::space::{GridMismatch, LabelMap, Reorientation};
use ctseg_image::statistics::hounsfield::ValueCounts;

/// Bytes per voxel while labels are read: the map and one mask.
const LABEL_BYTES: u64 = 4;

/// What every check needs.
#[derive(Clone, Copy)]
pub(super) struct Checks<'a> {
    pub dataset: &'a Dataset,
    /// Channel names.
    pub channels: &'a [String],
    pub labels: &'a Labels,
    pub conversion: &'a Conversion,
    pub memory: &'a MemorySemaphore,
}

/// A valid case, its labels ready to be written.
pub(super) struct Checked<'a> {
    /// Header of the image's first channel, as written.
    pub header: NiftiHeader,
    pub labels: Option<ReadyLabels>,
    /// Label values that occur, numbered as in the converted dataset.
    pub present: BTreeSet<u16>,
    /// Whether SimpleITK cannot read the written image: non-orthogonal axes or NIfTI-2.
    pub needs_nibabel: bool,
    pub notes: Vec<String>,
    _memory: MemoryPermit<'a>,
}

pub(super) enum ReadyLabels {
    /// The source file can be copied unchanged.
    AsIs(PathBuf),
    /// Labels on the image's grid, with the values of the converted dataset.
    Made(LabelMap),
}

/// Problems and notes of a case, collected during its check.
#[derive(Default)]
struct Findings {
    problems: Vec<String>,
    notes: Vec<String>,
}

impl Findings {
    fn problem(&mut self, file: &Path, problem: impl Into<String>) {
        self.problems.push(Error::file(file, problem).to_string());
    }

    /// Adds a note about a file's grid, if any.
    fn remark(&mut self, file: &Path, remark: Option<GridMismatch>) {
        let noted = remark.map(|remark| format!("{}: {}", file.display(), remark.text));
        self.notes.extend(noted);
    }

    /// Returns the value, or records the error as a problem.
    fn ok<T>(&mut self, result: Result<T>) -> Option<T> {
        result
            .map_err(|error| self.problems.push(error.to_string()))
            .ok()
    }
}

impl<'a> Checks<'a> {
    /// Reads the image and labels of a case in full. Returns all problems, one line each, if there are any.
    pub fn check(
        &self,
        case: &Case,
        images: &[PathBuf],
    ) -> std::result::Result<Checked<'a>, Vec<String>> {
        let mut found = Findings::default();
        let header = self.image(case, images, &mut found);
        let voxels = header.as_ref().map_or(0, |header| header.grid().voxels());
        let memory = self.memory.acquire(LABEL_BYTES * voxels as u64);
        let (map, file) = match &case.labels {
            LabelSource::None if self.dataset.is_test(&case.id) => (None, None),
            LabelSource::None => {
                let problem =
                    "is a training case without labels; add its label file or remove the case";
                found.problem(&case.image, problem);
                (None, None)
            }
            LabelSource::Map(path) => (self.map(path, header.as_ref(), &mut found), Some(path)),
            LabelSource::PerStructure(files) => {
                (self.masks(files, header.as_ref(), &mut found), None)
            }
        };
        let (Some(header), true) = (header, found.problems.is_empty()) else {
            return Err(found.problems);
        };
        let (labels, present) = self.ready(map, file, &header, &mut found);
        Ok(Checked {
            needs_nibabel: header.grid().is_skewed() || header.version() == Version::Nifti2,
            header,
            labels,
            present,
            notes: found.notes,
            _memory: memory,
        })
    }

    /// Checks the channel files: fully readable, the expected number of channels, all on one grid.
    fn image(&self, case: &Case, images: &[PathBuf], found: &mut Findings) -> Option<NiftiHeader> {
        let mut first: Option<NiftiHeader> = None;
        let mut channels = 0;
        let tolerance = self.dataset.reading.grid_tolerance;
        for path in images {
            let Some((header, count)) = found.ok(nifti::read_channels(path)) else {
                continue;
            };
            channels += count;
            let grid = header.grid();
            match &first {
                Some(first) => {
                    let other = "image's first channel";
                    match tolerance.reorientation(&grid, &first.grid(), other) {
                        Ok((Reorientation::IDENTITY, remark)) => found.remark(path, remark),
                        _ => found.problem(
                            path,
                            "is not on the grid of the image's first channel; resample it to that grid",
                        ),
                    }
                }
                None => {
                    let warnings = header.warnings().iter();
                    let warnings = warnings.map(|warning| format!("the image {warning}"));
                    found.notes.extend(warnings);
                    first = Some(as_written(header, &mut found.notes));
                }
            }
            let Some(read) = found.ok(nifti::check_channels(path)) else {
                continue;
            };
            if read.non_finite > 0 {
                found.notes.push(format!(
                    "the image has {}, which nnU-Net rejects",
                    counted(read.non_finite, "NaN or infinite voxel")
                ));
            }
            let padding = read.padding.map(|padding| format!("the image: {padding}"));
            found.notes.extend(padding);
            let names = self.channels.iter().skip(channels - count);
            found.notes.extend(not_hu(names, &read.counts));
        }
        first.as_ref()?;
        let more = surplus_channel(case, images.len());
        if let Some(more) = more {
            let problem = format!(
                "is one channel more than the {} that the dataset names; name it too, or remove the file",
                self.channels.len()
            );
            found.problem(&more, problem);
        } else if channels != self.channels.len() && found.problems.is_empty() {
            let problem = format!(
                "has {}; expected {}; name them with --channels if the dataset does not, for example --channels CT,PET",
                counted(channels, "channel"),
                self.channels.len()
            );
            found.problem(&case.image, problem);
        }
        first
    }

    /// Reads a label map and records the problems found in it.
    fn map(
        &self,
        path: &Path,
        image: Option<&NiftiHeader>,
        found: &mut Findings,
    ) -> Option<LabelMap> {
        let labels = self.read(path, image, found)?;
        let counts = count_values(&labels);
        let structures = &self.dataset.structures;
        let is_known = |value: u16| {
            value == 0
                || self.dataset.ignore == Some(value)
                || structures.iter().any(|s| s.value == value)
        };
        let unknown: Vec<_> = counts
            .iter()
            .filter(|(value, _)| !is_known(*value))
            .collect();
        if !unknown.is_empty() {
            found.problem(path, unknown_values(&unknown, self.dataset));
        }
        Some(labels)
    }

    /// Merges masks into one label map; later masks overwrite earlier ones.
    fn masks(
        &self,
        files: &[(u16, PathBuf)],
        image: Option<&NiftiHeader>,
        found: &mut Findings,
    ) -> Option<LabelMap> {
        let mut merged: Option<LabelMap> = None;
        let mut overlaps: BTreeMap<(u16, u16), usize> = BTreeMap::new();
        for (value, path) in files {
            let Some(mask) = self.read(path, image, found) else {
                continue;
            };
            let marked = count_values(&mask);
            if let [.., (a, _), (b, _)] = marked.as_slice()
                && *a != 0
            {
                found.problem(
                    path,
                    format!("has values {a} and {b} besides 0; expected a binary mask"),
                );
            }
            let labels = merged.get_or_insert_with(|| LabelMap::empty(mask.grid));
            if labels.grid.shape == mask.grid.shape {
                for (label, voxels) in labels.overlay(&mask, *value) {
                    *overlaps.entry((label, *value)).or_insert(0) += voxels;
                }
            }
        }
        self.overlapping(files, &overlaps, found);
        let missing = self.dataset.structures.iter();
        let missing = missing.filter(|s| files.iter().all(|(value, _)| *value != s.value));
        let missing: Vec<&str> = missing.map(|s| s.name.as_str()).collect();
        if let Some(first) = missing.first() {
            found.notes.push(match missing.len() - 1 {
                0 => format!("no mask of {first}; treated as background"),
                more => format!("no masks of {first} and {more} more; treated as background"),
            });
        }
        merged
    }

    fn overlapping(
        &self,
        files: &[(u16, PathBuf)],
        overlaps: &BTreeMap<(u16, u16), usize>,
        found: &mut Findings,
    ) {
        let Some(((a, b), voxels)) = overlaps.iter().max_by_key(|(_, voxels)| **voxels) else {
            return;
        };
        let name = |value: &u16| {
            let known = self.dataset.structures.iter().find(|s| s.value == *value);
            known.map_or_else(|| value.to_string(), |s| s.name.clone())
        };
        let more = match overlaps.len() - 1 {
            0 => String::new(),
            1 => ", and 1 more pair overlaps".to_owned(),
            more => format!(", and {more} more pairs overlap"),
        };
        let words = format!(
            "the masks of {} and {} overlap in {}{more}",
            name(a),
            name(b),
            counted(*voxels, "voxel")
        );
        match self.conversion.overlaps {
            Overlaps::Last => found.notes.push(format!(
                "{words}; the structure with the higher label value wins"
            )),
            Overlaps::Refuse => {
                let path = files
                    .iter()
                    .find(|(value, _)| value == b)
                    .map(|(_, path)| path);
                found.problem(
                    path.map_or(Path::new(""), PathBuf::as_path),
                    format!("{words}, but a label map has one label per voxel; correct the masks, or let the higher label value win with --overlaps last"),
                );
            }
        }
    }

    /// Reads a label file that must be on the image's grid; reorients it if its axes are permuted or flipped.
    fn read(
        &self,
        path: &Path,
        image: Option<&NiftiHeader>,
        found: &mut Findings,
    ) -> Option<LabelMap> {
        if !path.exists() {
            found.problem(
                path,
                "does not exist; add this label file or remove the case",
            );
            return None;
        }
        let (_, labels) = found.ok(read_label_map(path))?;
        let Some(image) = image.map(NiftiHeader::grid) else {
            return Some(labels);
        };
        let tolerance = self.dataset.reading.grid_tolerance;
        match tolerance.reorientation(&labels.grid, &image, "image") {
            Ok((reorientation, remark)) => {
                found.remark(path, remark);
                Some(LabelMap {
                    grid: image,
                    data: reorientation.apply(labels.data),
                })
            }
            Err(problem) => {
                found.problem(path, problem);
                Some(labels)
            }
        }
    }

    /// The labels to write, and which values occur.
    fn ready(
        &self,
        map: Option<LabelMap>,
        file: Option<&PathBuf>,
        image: &NiftiHeader,
        found: &mut Findings,
    ) -> (Option<ReadyLabels>, BTreeSet<u16>) {
        let Some(mut map) = map else {
            return (None, BTreeSet::new());
        };
        map.grid = image.grid();
        let map = self.labels.renumbered(map);
        let counts = count_values(&map);
        let present: BTreeSet<u16> = counts
            .into_iter()
            .map(|(value, _)| value)
            .filter(|v| *v > 0)
            .collect();
        if present.is_empty() {
            found.notes.push("no voxel is labelled".to_owned());
        }
        let as_is = file.filter(|path| {
            let header = nifti::read_header(path);
            self.labels.are_kept()
                && header.is_ok_and(|header| {
                    header.is_compressed()
                        && header.version() == image.version()
                        && header.holds_plain_labels()
                        && header.same_placement(image)
                })
        });
        let ready = match as_is {
            Some(path) => ReadyLabels::AsIs(path.clone()),
            None => ReadyLabels::Made(map),
        };
        (Some(ready), present)
    }
}

/// Notes about channels named CT whose values do not look like Hounsfield units.
fn not_hu<'a>(
    names: impl Iterator<Item = &'a String>,
    counts: &[ValueCounts],
) -> impl Iterator<Item = String> {
    let suspicions = names.zip(counts).filter_map(|(name, counts)| {
        let is_ct = name.trim().eq_ignore_ascii_case("CT");
        counts.suspicion().filter(|_| is_ct)
    });
    suspicions.map(|found| format!("the image does not look like CT in Hounsfield units: {found}"))
}

/// The header to write: NIfTI-1, which ITK reads, if it can represent the image.
fn as_written(header: NiftiHeader, notes: &mut Vec<String>) -> NiftiHeader {
    if header.version() == Version::Nifti1 {
        return header;
    }
    let (note, header) = match header.as_nifti1() {
        Some(header) => (
            "the image is NIfTI-2, which SimpleITK cannot read; written as NIfTI-1",
            header,
        ),
        None => (
            "the image is NIfTI-2, which SimpleITK cannot read, and does not fit NIfTI-1",
            header,
        ),
    };
    notes.push(note.to_owned());
    header
}

/// An nnU-Net file for a channel beyond the last one, if it exists.
fn surplus_channel(case: &Case, channels: usize) -> Option<PathBuf> {
    let name = to_text(case.image.file_name()?);
    let ending = name.strip_prefix(&format!("{}_0000", case.id))?;
    let next = format!("{}_{channels:04}{ending}", case.id);
    Some(case.image.with_file_name(from_text(&next))).filter(|path| path.exists())
}
