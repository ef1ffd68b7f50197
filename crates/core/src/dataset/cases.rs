//! A dataset: its cases, their files, and the structures in their labels.

use std::fmt;
use std::path::PathBuf;

use super::{Copies, PredefinedSplits, Reading};
use ctseg_base::{Error, Result};
use ctseg_image::space::LabelMap;

/// A structure to segment and its value in the label maps; 0 is always background.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Structure {
    pub value: u16,
    pub name: String,
}

/// The files with a case's reference labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LabelSource {
    /// No labels: a case for prediction only.
    None,
    Map(PathBuf),
    /// One binary mask per structure, ascending by the structure's value; where masks overlap, the
    /// higher value wins.
    PerStructure(Vec<(u16, PathBuf)>),
}

impl LabelSource {
    /// The label map or the masks.
    pub fn files(&self) -> Vec<&PathBuf> {
        match self {
            Self::None => Vec::new(),
            Self::Map(path) => vec![path],
            Self::PerStructure(files) => files.iter().map(|(_, path)| path).collect(),
        }
    }
}

/// One CT volume and its labels. Cases of one patient are never split between training and validation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Case {
    pub id: String,
    pub patient: String,
    pub image: PathBuf,
    pub labels: LabelSource,
}

/// How a dataset's folder is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// As a TOML descriptor says.
    Descriptor,
    /// `images/` and `labels/` with the same file names.
    Plain,
    /// nnU-Net v2 raw: `dataset.json`, `imagesTr/<case>_0000.nii.gz`, `labelsTr/<case>.nii.gz`.
    NnUnet,
    /// Medical Segmentation Decathlon: a `dataset.json` that lists the training pairs.
    Decathlon,
    /// TotalSegmentator: `<case>/ct.nii.gz` and `<case>/segmentations/<structure>.nii.gz`.
    TotalSegmentator,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Descriptor => "descriptor",
            Self::Plain => "images + labels",
            Self::NnUnet => "nnU-Net v2 raw",
            Self::Decathlon => "Medical Segmentation Decathlon",
            Self::TotalSegmentator => "TotalSegmentator",
        })
    }
}

/// A dataset as found on disk: names and paths, no voxels. Cases are sorted by id, structures by value.
#[derive(Debug, Clone)]
pub struct Dataset {
    pub name: String,
    /// The folder with the dataset's files.
    pub root: PathBuf,
    pub layout: Layout,
    pub licence: Option<String>,
    pub description: Option<String>,
    pub structures: Vec<Structure>,
    /// The ignore label: its voxels are left out of losses and scores.
    pub ignore: Option<u16>,
    pub cases: Vec<Case>,
    /// Ids of the test cases, sorted; never trained on.
    pub test: Vec<String>,
    /// Label files without an image; [`Dataset::check`] reports them as problems.
    pub unpaired_labels: Vec<PathBuf>,
    /// Folds from a file; without them [`Dataset::split`] assigns cases to folds itself.
    pub splits: Option<PredefinedSplits>,
    /// Copies that are read instead of the files of `cases`.
    pub copies: Copies,
    /// The channel name in `dataset.json`, such as CT or MRI; none if no file gives one.
    pub channel: Option<String>,
    /// How the files are read.
    pub reading: Reading,
}

impl Dataset {
    /// Indices of the training cases: those with labels that are not in the test set.
    pub fn training_cases(&self) -> Vec<usize> {
        (0..self.cases.len())
            .filter(|index| {
                let case = &self.cases[*index];
                case.labels != LabelSource::None && !self.is_test(&case.id)
            })
            .collect()
    }

    /// Whether the case belongs to the test set.
    pub fn is_test(&self, case: &str) -> bool {
        self.test
            .binary_search_by(|id| id.as_str().cmp(case))
            .is_ok()
    }

    /// Whether the images are CT, in Hounsfield units; true unless `dataset.json` says otherwise.
    pub fn is_ct(&self) -> bool {
        let channel = self.channel.as_deref().unwrap_or("CT");
        channel.trim().eq_ignore_ascii_case("CT")
    }

    /// The dataset with its files read as `reading` says.
    ///
    /// # Errors
    /// `rescale_hu` is set and the images are not CT.
    pub fn read_as(self, reading: Reading) -> Result<Self> {
        match &self.channel {
            Some(channel) if reading.rescale_hu.is_some() && !self.is_ct() => {
                Err(Error::usage(format!(
                    "--rescale-hu is for CT, but the images of dataset '{}' are '{channel}'; remove the option",
                    self.name
                )))
            }
            _ => Ok(Self { reading, ..self }),
        }
    }

    /// `labels` with the ignore label replaced by background.
    pub fn without_ignored(&self, mut labels: LabelMap) -> LabelMap {
        if let Some(ignore) = self.ignore {
            let without = |label: u16| if label == ignore { 0 } else { label };
            labels.data.mapv_inplace(without);
        }
        labels
    }
}
