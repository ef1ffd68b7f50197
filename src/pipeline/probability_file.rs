//! Probabilities of all structures of a case, written portion by portion.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use burn::tensor::f16;
use ndarray::Array3;
use tempfile::NamedTempFile;

use super::restoring::Probabilities;
use crate::arrays::nifti::{NiftiHeader, case_name, write_maps};
use crate::error::{Error, Result};
use crate::files::{parent_of, persisted, temporary_file};
use crate::values::{Grid, VoxelBox};

/// How probabilities are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbabilityKind {
    /// In steps of 1/255: a NIfTI file with one volume per structure.
    U8,
    /// As 16-bit reals: a NumPy array (structure, z, y, x), which is what NIfTI has no type for.
    F16,
}

impl FromStr for ProbabilityKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "u8" => Ok(Self::U8),
            "f16" => Ok(Self::F16),
            other => Err(Error::usage(format!(
                "'{other}' is no way to save probabilities; expected u8 or f16"
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
    /// For each voxel of each structure, in memory and before compression.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F16 => 2,
        }
    }

    /// The file of the case whose label map is `output`.
    pub fn path(self, output: &Path) -> PathBuf {
        let name = case_name(output).unwrap_or_else(|| "case".to_owned());
        output.with_file_name(match self {
            Self::U8 => format!("{name}_probabilities.nii.gz"),
            Self::F16 => format!("{name}_probabilities.npy"),
        })
    }
}

/// A file under way; it has its name when it is whole.
pub struct ProbabilityFile {
    kind: ProbabilityKind,
    path: PathBuf,
    /// Zero wherever nothing was written: a file with holes.
    temporary: NamedTempFile,
    /// Bytes before the first voxel.
    begin: usize,
    structures: usize,
    shape_zyx: [usize; 3],
}

impl ProbabilityFile {
    /// For `structures` maps on `grid`, beside the label map `output`.
    pub fn create(
        kind: ProbabilityKind,
        output: &Path,
        structures: usize,
        grid: &Grid,
    ) -> Result<Self> {
        let path = kind.path(output);
        let mut temporary = temporary_file(parent_of(&path))?;
        let shape_zyx = grid.shape_zyx();
        let header = match kind {
            ProbabilityKind::U8 => Vec::new(),
            ProbabilityKind::F16 => numpy_header(structures, shape_zyx),
        };
        let bytes = header.len() + structures * grid.voxels() * kind.bytes();
        let file = temporary.as_file_mut();
        file.write_all(&header)
            .and_then(|()| file.set_len(bytes as u64))
            .map_err(Error::io(&path, "write"))?;
        Ok(Self {
            kind,
            path,
            temporary,
            begin: header.len(),
            structures,
            shape_zyx,
        })
    }

    /// Puts the file under its name; `source` is the header of the volume.
    pub fn finish(self, source: &NiftiHeader) -> Result<PathBuf> {
        match self.kind {
            ProbabilityKind::U8 => {
                let file = self
                    .temporary
                    .reopen()
                    .map_err(Error::io(&self.path, "read back"))?;
                write_maps(&self.path, source, self.structures, 1.0 / 255.0, file)?;
            }
            ProbabilityKind::F16 => persisted(self.temporary, &self.path)?,
        }
        Ok(self.path)
    }

    fn encoded(&self, values: impl Iterator<Item = f32>) -> Vec<u8> {
        match self.kind {
            ProbabilityKind::U8 => values
                .map(|p| (p.clamp(0.0, 1.0) * 255.0).round() as u8)
                .collect(),
            ProbabilityKind::F16 => values
                .flat_map(|p| f16::from_f32(p).to_le_bytes())
                .collect(),
        }
    }
}

impl Probabilities for ProbabilityFile {
    fn put(&mut self, structure: usize, region: &VoxelBox, values: Array3<f32>) -> Result<()> {
        let [depth, height, width] = self.shape_zyx;
        let [x, y, z] = region.start;
        let file: &File = self.temporary.as_file();
        let place = |z: usize, y: usize, x: usize| {
            let voxel = ((structure * depth + z) * height + y) * width + x;
            (self.begin + voxel * self.kind.bytes()) as u64
        };
        let failed = Error::io(&self.path, "write");
        let written = values.outer_iter().enumerate().try_for_each(|(dz, plane)| {
            if plane.dim().1 == width {
                // Whole rows lie side by side.
                let bytes = self.encoded(plane.iter().copied());
                return file.write_all_at(&bytes, place(z + dz, y, x));
            }
            plane.outer_iter().enumerate().try_for_each(|(dy, row)| {
                let bytes = self.encoded(row.iter().copied());
                file.write_all_at(&bytes, place(z + dz, y + dy, x))
            })
        });
        written.map_err(failed)
    }
}

/// NumPy's format, version 1.0 (numpy.lib.format): 16-bit little-endian reals in C order.
fn numpy_header(structures: usize, [z, y, x]: [usize; 3]) -> Vec<u8> {
    let mut description = format!(
        "{{'descr': '<f2', 'fortran_order': False, 'shape': ({structures}, {z}, {y}, {x}), }}"
    );
    // Magic, version and length take 10 bytes; all together are a multiple of 64 and end a line.
    let padding = (64 - (10 + description.len() + 1) % 64) % 64;
    description.extend(std::iter::repeat_n(' ', padding));
    description.push('\n');
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((description.len() as u16).to_le_bytes());
    header.extend(description.bytes());
    header
}
