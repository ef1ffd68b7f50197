//! Maps on a volume's grid, written region by region to a temporary file.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ndarray::ArrayView3;
use tempfile::NamedTempFile;

use ctseg_base::atomic_file::{parent_of, persist, temporary_file};
use ctseg_base::{Error, Result};
use ctseg_image::space::{Grid, VoxelBox};

/// Voxels of `maps` maps, x fastest and maps slowest, after a header; zero where nothing was written. A sparse file,
/// which takes no memory.
pub(super) struct MapFile {
    /// The final path.
    path: PathBuf,
    temporary: NamedTempFile,
    /// Bytes before the first voxel.
    header_bytes: usize,
    voxel_bytes: usize,
    shape_zyx: [usize; 3],
}

impl MapFile {
    /// A temporary file beside `path`, for maps on `grid`.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(super) fn create(
        path: PathBuf,
        header: &[u8],
        maps: usize,
        voxel_bytes: usize,
        grid: &Grid,
    ) -> Result<Self> {
        let mut temporary = temporary_file(parent_of(&path))?;
        let bytes = header.len() + maps * grid.voxels() * voxel_bytes;
        let file = temporary.as_file_mut();
        file.write_all(header)
            .and_then(|()| file.set_len(bytes as u64))
            .map_err(Error::io(&path, "write"))?;
        Ok(Self {
            path,
            temporary,
            header_bytes: header.len(),
            voxel_bytes,
            shape_zyx: grid.shape_zyx(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a region of one map; `encode` gives the bytes of a run of values.
    ///
    /// # Shapes
    /// `values`: (z, y, x) of the region
    pub(super) fn put(
        &self,
        map: usize,
        region: &VoxelBox,
        values: ArrayView3<f32>,
        encode: impl Fn(&mut dyn Iterator<Item = f32>) -> Vec<u8>,
    ) -> Result<()> {
        let [depth, height, width] = self.shape_zyx;
        let [x, y, z] = region.start;
        let file: &File = self.temporary.as_file();
        let place = |z: usize, y: usize, x: usize| {
            let voxel = ((map * depth + z) * height + y) * width + x;
            (self.header_bytes + voxel * self.voxel_bytes) as u64
        };
        let written = values.outer_iter().enumerate().try_for_each(|(dz, plane)| {
            if plane.dim().1 == width {
                // Whole rows are contiguous.
                let bytes = encode(&mut plane.iter().copied());
                return file.write_all_at(&bytes, place(z + dz, y, x));
            }
            plane.outer_iter().enumerate().try_for_each(|(dy, row)| {
                let bytes = encode(&mut row.iter().copied());
                file.write_all_at(&bytes, place(z + dz, y + dy, x))
            })
        });
        written.map_err(Error::io(&self.path, "write"))
    }

    /// Reads the file back from the start.
    pub(super) fn reader(&self) -> Result<File> {
        let file = self.temporary.reopen();
        file.map_err(Error::io(&self.path, "read back"))
    }

    /// Moves the file to its final path.
    pub(super) fn persist(self) -> Result<PathBuf> {
        persist(self.temporary, &self.path)?;
        Ok(self.path)
    }
}
