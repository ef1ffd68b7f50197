//! Reading files of several maps of bytes, slice by slice.

use std::path::{Path, PathBuf};

use super::header::NiftiHeader;
use super::names::ENDINGS;
use super::read_header::raw_header;
use crate::formats::{MOST_EXPANSION, MOST_PADDING, Source, VoxelType};
use crate::space::Grid;
use ctseg_base::{Error, Result};

/// An open file as [`super::write_maps`] writes them: one volume of bytes after the other on one grid.
pub struct ByteMaps {
    path: PathBuf,
    source: Source<'static>,
    /// Of one map.
    header: NiftiHeader,
    maps: usize,
}

impl ByteMaps {
    /// Opens a file and checks its header; a plain file's length is compared with it too.
    ///
    /// # Errors
    /// As [`super::read_header`], and voxels that are no bytes.
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

    /// How many maps there are; the file has not shown yet that it holds them.
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

    /// Hands out every slice (y, x) with the place of its map and its z, in the order of the file; in memory is one.
    ///
    /// # Errors
    /// A file that is damaged or ends early or late, and those of `take`, which end the reading.
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
        // The end of gzip data has their checksum.
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

/// The header of one map, and how many maps there are.
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

/// The header of one volume of a file, how many volumes it has along its fourth axis (or a later one), and how many dimensions. What
/// the header promises is compared with the file's length.
pub(super) fn volumes(
    source: &mut Source,
) -> std::result::Result<(NiftiHeader, usize, i64), String> {
    let mut raw = raw_header(source)?;
    let dims = raw.dim(0);
    // More dimensions than a header has room for are refused with the rest of it.
    let last = if dims <= 7 { dims } else { 3 };
    let more: Vec<i64> = (4..=last).map(|axis| raw.dim(axis as usize)).collect();
    // Programs that store vectors put their number in the fifth.
    let mut volumes = more.iter().filter(|n| **n != 1);
    let (volumes, rest) = (volumes.next().unwrap_or(&1), volumes.next());
    let count = usize::try_from(*volumes).ok().filter(|count| *count > 0);
    let (Some(count), None) = (count, rest) else {
        return Err(format!(
            "has {more:?} as its dimensions behind x, y and z; expected one alone, the number of volumes"
        ));
    };
    if !more.is_empty() {
        raw.set_dim(0, 3);
        (4..8).for_each(|axis| raw.set_dim(axis, 1));
    }
    let header = NiftiHeader::parse(raw, source.is_gzip())?;
    let bytes = header.data_bytes().checked_mul(count as u64);
    let bytes = bytes.and_then(|bytes| bytes.checked_add(header.data_offset));
    // Always known of a file.
    let file_bytes = source.length().unwrap_or_default();
    let fits = bytes.is_some_and(|bytes| match header.compressed {
        true => bytes / MOST_EXPANSION <= file_bytes,
        false => (bytes..=bytes.saturating_add(MOST_PADDING)).contains(&file_bytes),
    });
    if !fits {
        let [x, y, z] = header.grid().shape;
        return Err(format!(
            "truncated or damaged: its header promises {count} volumes of {x} x {y} x {z} voxels of {}, which \
             {file_bytes} bytes cannot hold; copy or export it again",
            header.voxel_type.name(),
        ));
    }
    Ok((header, count, dims))
}
