//! Maps on a volume's grid that are written portion by portion into a file under way.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ndarray::ArrayView3;
use tempfile::NamedTempFile;

use ctseg_base::atomic_file::{parent_of, persisted, temporary_file};
use ctseg_base::{Error, Result};
use ctseg_image::space::{Grid, VoxelBox};

/// Voxels of `maps` maps, x fastest and maps slowest, behind a head; zero wherever nothing was written: a file with
/// holes, which takes no memory.
pub(super) struct MapFile {
    /// The name of what becomes of it.
    path: PathBuf,
    temporary: NamedTempFile,
    /// Bytes before the first voxel.
    begin: usize,
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
        head: &[u8],
        (maps, voxel_bytes): (usize, usize),
        grid: &Grid,
    ) -> Result<Self> {
        let mut temporary = temporary_file(parent_of(&path))?;
        let bytes = head.len() + maps * grid.voxels() * voxel_bytes;
        let file = temporary.as_file_mut();
        file.write_all(head)
            .and_then(|()| file.set_len(bytes as u64))
            .map_err(Error::io(&path, "write"))?;
        Ok(Self {
            path,
            temporary,
            begin: head.len(),
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
            (self.begin + voxel * self.voxel_bytes) as u64
        };
        let written = values.outer_iter().enumerate().try_for_each(|(dz, plane)| {
            if plane.dim().1 == width {
                // Whole rows lie side by side.
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

    /// What was written, from its beginning.
    pub(super) fn reader(&self) -> Result<File> {
        let file = self.temporary.reopen();
        file.map_err(Error::io(&self.path, "read back"))
    }

    /// Puts the file as it is under its name.
    pub(super) fn persisted(self) -> Result<PathBuf> {
        persisted(self.temporary, &self.path)?;
        Ok(self.path)
    }
}
