//! Reading files of several uint8 maps, slice by slice.

use std::path::{Path, PathBuf};

use super::header::NiftiHeader;
use super::names::ENDINGS;
use super::read_header::raw_header;
use crate::formats::{MAX_EXPANSION, MAX_PADDING, Source, VoxelType};
use crate::space::Grid;
use ctseg_base::{Error, Result};

/// An open file as written by [`super::write_maps`]: consecutive uint8 volumes on one grid.
pub struct ByteMaps {
    path: PathBuf,
    source: Source<'static>,
    /// The header of one map.
    header: NiftiHeader,
    maps: usize,
}

impl ByteMaps {
    /// Opens a file and checks its header, also against the length of an uncompressed file.
    ///
    /// # Errors
    /// Those of [`super::read_header`], and voxels other than uint8.
    pub fn open(path: &Path) -> Result<Self> {
        let mut source = Source::open(path, &ENDINGS)?;
        let (header, maps) = opened(&mut source).map_err(|problem| Error::file(path, problem))?;
        Ok(Self {
            path: path.to_path_buf(),
            source,
            header,
            maps,
        })
    }

    /// The number of maps according to the header.
    pub fn count(&self) -> usize {
        self.maps
    }

    /// The grid of each map.
    pub fn grid(&self) -> Grid {
        self.header.grid()
    }

    /// Slope and intercept, see [`NiftiHeader::scaling`].
    pub fn scaling(&self) -> Option<(f64, f64)> {
        self.header.scaling()
    }

    /// Calls `take` for every slice (y, x) in file order, with the index of its map and its z; only one slice is in
    /// memory at a time.
    ///
    /// # Errors
    /// A file that is damaged, too short or too long; an error of `take` ends the reading.
    pub fn each_slice(
        mut self,
        mut take: impl FnMut(usize, usize, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let [nx, ny, nz] = self.header.grid().shape;
        let begin = self.header.data_offset;
        let expected = begin + self.header.data_bytes() * self.maps as u64;
        let mut slice = Vec::new();
        while self.source.position() < begin {
            slice.resize((begin - self.source.position()).min(1 << 16) as usize, 0);
            self.fill(&mut slice, expected)?;
        }
        slice.resize(nx * ny, 0);
        for map in 0..self.maps {
            for z in 0..nz {
                self.fill(&mut slice, expected)?;
                take(map, z, &slice)?;
            }
        }
        // Reading to the end also verifies the gzip checksum.
        let end = self.source.end();
        end.map(drop).map_err(|problem| self.problem(problem))
    }

    fn fill(&mut self, bytes: &mut [u8], expected: u64) -> Result<()> {
        match self.source.fill(bytes) {
            Ok(found) if found == bytes.len() => Ok(()),
            Ok(_) => Err(self.problem(format!(
                "truncated: {} bytes found, {expected} expected",
                self.source.position()
            ))),
            Err(problem) => Err(self.problem(problem)),
        }
    }

    fn problem(&self, problem: String) -> Error {
        Error::file(&self.path, problem)
    }
}

/// The header of one map, and the number of maps.
fn opened(source: &mut Source) -> std::result::Result<(NiftiHeader, usize), String> {
    let (header, count, _) = volumes(source)?;
    if header.voxel_type != VoxelType::U8 {
        return Err(format!(
            "holds {}; expected uint8",
            header.voxel_type.name()
        ));
    }
    Ok((header, count))
}

/// The header of one volume, the number of volumes along the fourth axis (or a later one), and the number of
/// dimensions. The size that the header declares is compared with the file's length.
pub(super) fn volumes(
    source: &mut Source,
) -> std::result::Result<(NiftiHeader, usize, i64), String> {
    let mut raw = raw_header(source)?;
    let dims = raw.dim(0);
    // An impossible number of dimensions is refused by `parse` below.
    let last = if dims <= 7 { dims } else { 3 };
    let more: Vec<i64> = (4..=last).map(|axis| raw.dim(axis as usize)).collect();
    // Programs that store vectors use the fifth dimension.
    let mut volumes = more.iter().filter(|n| **n != 1);
    let (volumes, rest) = (volumes.next().unwrap_or(&1), volumes.next());
    let count = usize::try_from(*volumes).ok().filter(|count| *count > 0);
    let (Some(count), None) = (count, rest) else {
        return Err(format!(
            "has dimensions {more:?} after x, y and z; expected only one, the number of volumes"
        ));
    };
    if !more.is_empty() {
        raw.set_dim(0, 3);
        (4..8).for_each(|axis| raw.set_dim(axis, 1));
    }
    let header = NiftiHeader::parse(raw, source.is_gzip())?;
    let bytes = header.data_bytes().checked_mul(count as u64);
    let bytes = bytes.and_then(|bytes| bytes.checked_add(header.data_offset));
    // Always known for a file.
    let file_bytes = source.length().unwrap_or_default();
    let fits = bytes.is_some_and(|bytes| match header.compressed {
        true => bytes / MAX_EXPANSION <= file_bytes,
        false => (bytes..=bytes.saturating_add(MAX_PADDING)).contains(&file_bytes),
    });
    if !fits {
        let [x, y, z] = header.grid().shape;
        return Err(format!(
            "truncated or damaged: its header declares {count} volumes of {x} x {y} x {z} voxels of {}, which \
             {file_bytes} bytes cannot hold; copy or export it again",
            header.voxel_type.name(),
        ));
    }
    Ok((header, count, dims))
}
