//! Probabilities of all structures of a case, written slab by slab.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use half::f16;
use ndarray::ArrayView3;

use super::streamed_map::MapFile;
use crate::inference::export_logits::ProbabilitySink;
use ctseg_base::{Error, Result};
use ctseg_image::formats::{VolumeHeader, case_file};
use ctseg_image::nifti::{NiftiHeader, write_maps};
use ctseg_image::space::{Grid, VoxelBox};

/// Probability per step of a byte.
pub(super) const U8_STEP: f64 = 1.0 / 255.0;

/// File format of probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbabilityKind {
    /// In steps of 1/255: a NIfTI file with one volume per structure.
    U8,
    /// As 16-bit floats, which NIfTI does not have: a NumPy array (structure, z, y, x).
    F16,
}

impl FromStr for ProbabilityKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "u8" => Ok(Self::U8),
            "f16" => Ok(Self::F16),
            other => Err(Error::usage(format!(
                "'{other}' is not a format of probabilities; expected u8 or f16"
            ))),
        }
    }
}

impl fmt::Display for ProbabilityKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::U8 => "u8",
            Self::F16 => "f16",
        })
    }
}

impl ProbabilityKind {
    /// Bytes per voxel and structure, before compression.
    pub fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F16 => 2,
        }
    }

    /// Number of values that a voxel can have.
    pub fn codes(self) -> usize {
        match self {
            Self::U8 => 256,
            Self::F16 => usize::from(f16::ONE.to_bits()) + 1,
        }
    }

    /// The probability that is stored as `code`; increases with `code`.
    pub fn probability(self, code: u16) -> f64 {
        match self {
            Self::U8 => f64::from(code) * U8_STEP,
            Self::F16 => f16::from_bits(code).to_f64(),
        }
    }

    /// The file of the case whose label map is `output`.
    pub fn path(self, output: &Path) -> PathBuf {
        let ending = match self {
            Self::U8 => "_probabilities.nii.gz",
            Self::F16 => "_probabilities.npy",
        };
        case_file(output, ending)
    }
}

/// A file being written; it gets its final name when it is complete.
pub struct ProbabilityFile {
    kind: ProbabilityKind,
    file: MapFile,
    structures: usize,
}

impl ProbabilityFile {
    /// Creates the file beside the label map `output`, for `structures` maps on `grid`.
    pub fn create(
        kind: ProbabilityKind,
        output: &Path,
        structures: usize,
        grid: &Grid,
    ) -> Result<Self> {
        let head = match kind {
            ProbabilityKind::U8 => Vec::new(),
            ProbabilityKind::F16 => numpy_header(structures, grid.shape_zyx()),
        };
        let path = kind.path(output);
        Ok(Self {
            kind,
            file: MapFile::create(path, &head, structures, kind.bytes(), grid)?,
            structures,
        })
    }

    /// Moves the file to its final name; `source` is the header of the volume.
    pub fn finish(self, source: &VolumeHeader) -> Result<PathBuf> {
        match self.kind {
            ProbabilityKind::U8 => {
                let path = self.file.path().to_path_buf();
                let voxels = self.file.reader()?;
                write_maps(
                    &path,
                    &*NiftiHeader::of(source)?,
                    self.structures,
                    U8_STEP,
                    voxels,
                )?;
                Ok(path)
            }
            ProbabilityKind::F16 => self.file.persist(),
        }
    }
}

impl ProbabilitySink for ProbabilityFile {
    fn put(&mut self, structure: usize, region: &VoxelBox, values: ArrayView3<f32>) -> Result<()> {
        let kind = self.kind;
        self.file
            .put(structure, region, values, |values| match kind {
                ProbabilityKind::U8 => values
                    .map(|p| (p.clamp(0.0, 1.0) * 255.0).round() as u8)
                    .collect(),
                ProbabilityKind::F16 => values
                    .flat_map(|p| f16::from_f32(p).to_le_bytes())
                    .collect(),
            })
    }
}

/// Header of NumPy's format, version 1.0 (numpy.lib.format): 16-bit little-endian floats in C order.
fn numpy_header(structures: usize, [z, y, x]: [usize; 3]) -> Vec<u8> {
    let mut description = format!(
        "{{'descr': '<f2', 'fortran_order': False, 'shape': ({structures}, {z}, {y}, {x}), }}"
    );
    // Magic, version and length take 10 bytes; the total is a multiple of 64 and ends with a newline.
    let padding = (64 - (10 + description.len() + 1) % 64) % 64;
    description.extend(std::iter::repeat_n(' ', padding));
    description.push('\n');
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((description.len() as u16).to_le_bytes());
    header.extend(description.bytes());
    header
}
