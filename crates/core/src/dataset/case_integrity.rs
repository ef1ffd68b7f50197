//! Checks a single case: its image, its labels, and whether they match.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::content::{CaseContent, image_sha256, labels_sha256};
use super::problem::{CaseNote, CaseProblem, CheckDepth};
use super::structures::count_values;
use super::{Case, Dataset, LabelSource};
use ctseg_base::Error;
use ctseg_base::text::words::{counted, listed};
use ctseg_image::formats::{VolumeHeader, VolumeImage, read_header, read_label_map};
use ctseg_image::space::{Grid, LabelMap};
use ctseg_image::statistics::hounsfield::Suspicion;

pub(super) struct CaseCheck<'a> {
    dataset: &'a Dataset,
    case: &'a Case,
    image_grid: Option<Grid>,
    pub problems: Vec<CaseProblem>,
    pub notes: Vec<CaseNote>,
    /// Values of the structures with at least one voxel.
    pub present: BTreeSet<u16>,
    /// Hash of the image, if its voxels were read.
    image_sha256: Option<String>,
    labels_sha256: Option<String>,
}

impl<'a> CaseCheck<'a> {
    pub fn run(dataset: &'a Dataset, case: &'a Case, depth: CheckDepth) -> Self {
        let mut check = Self {
            dataset,
            case,
            image_grid: None,
            problems: Vec::new(),
            notes: Vec::new(),
            present: BTreeSet::new(),
            image_sha256: None,
            labels_sha256: None,
        };
        check.image(depth);
        match &case.labels {
            LabelSource::None if dataset.is_test(&case.id) => {}
            LabelSource::None => check.problem(
                &case.image,
                "a training case without labels; add its label file or remove the case",
            ),
            LabelSource::Map(path) => check.map(path),
            LabelSource::PerStructure(files) => check.masks(files),
        }
        check
    }

    /// The case's content; none if its voxels were not read.
    pub fn content(&self) -> Option<CaseContent> {
        Some(CaseContent {
            case: self.case.id.clone(),
            shape: self.image_grid?.shape,
            image_sha256: self.image_sha256.clone()?,
            labels_sha256: self.labels_sha256.clone(),
            structures: self.present.clone(),
        })
    }

    fn problem(&mut self, file: &Path, problem: impl Into<String>) {
        self.problems.push(CaseProblem {
            case: self.case.id.clone(),
            file: file.to_path_buf(),
            problem: problem.into(),
        });
    }

    fn unreadable(&mut self, file: &Path, error: Error) {
        match error {
            // These errors name the file themselves.
            Error::File { path, problem } => self.problem(&path, problem),
            Error::Io {
                path,
                action,
                cause,
            } => {
                self.problem(&path, format!("cannot {action}: {cause}"));
            }
            other => self.problem(file, other.to_string()),
        }
    }

    fn warning(&mut self, note: String) {
        self.note(note, true);
    }

    fn note(&mut self, note: String, is_warning: bool) {
        self.notes.push(CaseNote {
            case: Some(self.case.id.clone()),
            note,
            is_warning,
        });
    }

    fn warnings(&mut self, file: &Path, header: &VolumeHeader) {
        for warning in &header.warnings {
            self.warning(format!("{}: {warning}", file.display()));
        }
    }

    fn image(&mut self, depth: CheckDepth) {
        let path = &self.case.image;
        let header = match depth {
            CheckDepth::Headers => self.dataset.copies.read(path, read_header),
            CheckDepth::Voxels => self.dataset.load_image(self.case).map(|image| {
                self.image_sha256 = Some(image_sha256(&image.volume));
                self.voxels(&image);
                image.header
            }),
        };
        match header {
            Ok(header) => {
                self.warnings(path, &header);
                self.image_grid = Some(header.grid);
            }
            Err(error) => self.unreadable(path, error),
        }
    }

    fn voxels(&mut self, image: &VolumeImage) {
        if image.non_finite > 0 {
            self.warning(format!(
                "the image has {}",
                counted(image.non_finite, "NaN or infinite voxel")
            ));
        }
        match Suspicion::of(image.volume.data.view(), None) {
            Some(suspicion) if self.dataset.is_ct() => self.warning(suspicion.warning()),
            Some(constant @ Suspicion::Constant(_)) => {
                self.warning(format!("in the image {constant}"));
            }
            _ => {}
        }
    }

    /// Reads a label file and turns it to the image's grid.
    fn labels(&mut self, path: &Path) -> Option<LabelMap> {
        match self.dataset.copies.read(path, read_label_map) {
            Ok((header, labels)) => {
                self.warnings(path, &header);
                let Some(image) = self.image_grid else {
                    return Some(labels);
                };
                let tolerance = self.dataset.reading.grid_tolerance;
                match tolerance.reorientation(&labels.grid, &image, "image") {
                    Ok((reorientation, remark)) => {
                        if let Some(remark) = remark {
                            let note = format!("{}: {}", path.display(), remark.text);
                            self.note(note, remark.is_warning);
                        }
                        Some(LabelMap {
                            grid: image,
                            data: reorientation.apply(labels.data),
                        })
                    }
                    Err(problem) => {
                        self.problem(path, problem);
                        Some(labels)
                    }
                }
            }
            Err(error) => {
                self.unreadable(path, error);
                None
            }
        }
    }

    fn map(&mut self, path: &Path) {
        let Some(labels) = self.labels(path) else {
            return;
        };
        self.labels_sha256 = Some(labels_sha256(&labels));
        let counts = count_values(&labels);
        let ignored = |value: u16| self.dataset.ignore == Some(value);
        let named = |value: u16| self.dataset.structures.iter().any(|s| s.value == value);
        let known = |value: u16| named(value) || ignored(value);
        let unknown: Vec<_> = counts
            .iter()
            .filter(|(value, _)| *value != 0 && !known(*value))
            .collect();
        if !unknown.is_empty() {
            let problem = unknown_values(&unknown, self.dataset);
            self.problem(path, problem);
        }
        self.present.extend(
            counts
                .iter()
                .map(|(value, _)| *value)
                .filter(|value| *value != 0 && !ignored(*value)),
        );
        if self.present.is_empty() {
            self.warning("the label map is empty".into());
        }
    }

    fn masks(&mut self, files: &[(u16, PathBuf)]) {
        let mut merged: Option<LabelMap> = None;
        let mut overlapping = 0;
        for (value, path) in files {
            let Some(mask) = self.labels(path) else {
                continue;
            };
            let counts = count_values(&mask);
            let marked: Vec<u16> = counts.iter().map(|c| c.0).filter(|v| *v != 0).collect();
            if marked.len() > 1 {
                let problem = format!(
                    "has the values {} and {} besides 0; expected a binary mask",
                    marked[0], marked[1]
                );
                self.problem(path, problem);
            }
            if !marked.is_empty() {
                self.present.insert(*value);
            }
            let labels = merged.get_or_insert_with(|| LabelMap::empty(mask.grid));
            if labels.grid.shape == mask.grid.shape {
                overlapping += labels.overlay(&mask, *value).values().sum::<usize>();
            }
        }
        if overlapping > 0 {
            self.warning(format!(
                "masks overlap in {}; the structure with the higher value wins",
                counted(overlapping, "voxel")
            ));
        }
        self.labels_sha256 = merged.as_ref().map(labels_sha256);
        if merged.is_some() && self.present.is_empty() {
            self.warning("all masks are empty".into());
        }
        let given = |value: u16| files.iter().any(|(v, _)| *v == value);
        let missing: Vec<&str> = self
            .dataset
            .structures
            .iter()
            .filter(|s| !given(s.value))
            .map(|s| s.name.as_str())
            .collect();
        if !missing.is_empty() {
            self.warning(format!(
                "no mask of {}; treated as background",
                listed(&missing)
            ));
        }
    }
}

/// Describes label values (with voxel counts) that are not structures of the dataset.
pub fn unknown_values(unknown: &[&(u16, usize)], dataset: &Dataset) -> String {
    let found: Vec<String> = unknown
        .iter()
        .map(|(value, voxels)| format!("{value} ({})", counted(*voxels, "voxel")))
        .collect();
    let structures = dataset.structures.iter();
    let known: Vec<String> = structures
        .map(|s| format!("{} {}", s.value, s.name))
        .collect();
    format!(
        "unknown label value{} {}; expected 0 background, {}; add the structure to the dataset's \
         descriptor or correct the file",
        if unknown.len() == 1 { "" } else { "s" },
        listed(&found),
        listed(&known)
    )
}
