//! What a format of volume files has to do.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use ndarray::Array3;

use super::header::{VolumeHeader, VolumeImage};
use super::source::Source;
use super::voxel_type::VoxelType;
use crate::labels::run_length_labels::LabelRuns;
use crate::space::{LabelMap, Volume};
use ctseg_base::{Error, Result};

/// Names by label value.
pub type LabelNames = BTreeMap<u16, String>;

/// Marks the voxels of a mask: in file order, from a range of them, 1 inside and 0 outside.
pub type MaskPiece<'a> = dyn Fn(Range<usize>, &mut [u8]) + Sync + 'a;

/// A format whose files hold one volume of one channel each.
///
/// To add a format, implement this in a file of its own and list it in [`FORMATS`](super::FORMATS). Errors name the
/// file ([`Source::problem`]), what was found, what was expected and what to do. No header may be believed before
/// [`Source::length`] has been compared with it.
///
/// NIfTI alone can do more, through functions of [`nifti`](crate::nifti): files of several channels
/// (`read_channels`, `write_split`, `write_joined`), maps that are written and read slice by slice (`write_map`,
/// `write_maps`, `ByteMaps`), byte-for-byte copies, and the fields of its own header.
pub trait VolumeFormat: Sync {
    /// Endings of its files' names, lower case, with their dot, in the order in which messages list them.
    fn endings(&self) -> &'static [&'static str];

    /// Whether content that begins with `start` (up to [`START_BYTES`](super::START_BYTES) bytes, fewer only if it
    /// ends, decompressed if the file is gzip) is of this format.
    fn identify(&self, start: &[u8]) -> bool;

    /// Reads and checks the header; damage further on need not be found.
    fn read_header(&self, source: Source) -> Result<VolumeHeader>;

    /// Reads a volume as `f32`, scaled as the header says; shape (z, y, x), x fastest.
    fn read_volume(&self, source: Source) -> Result<VolumeImage>;

    /// Reads a label map; shape (z, y, x), x fastest. Values that are no whole numbers from 0 to 65535 are an error.
    fn read_label_map(&self, source: Source) -> Result<(VolumeHeader, LabelMap)>;

    /// [`read_label_map`](Self::read_label_map) as runs. A format that reads piece by piece overrides this, so that
    /// memory does not grow with the volume.
    fn read_label_runs(&self, source: Source) -> Result<(VolumeHeader, LabelRuns)> {
        let (header, labels) = self.read_label_map(source)?;
        Ok((header, LabelRuns::from(&labels)))
    }

    /// The names that a label map holds for its labels; none in formats that have no room for them.
    fn read_label_names(&self, _source: Source) -> Result<LabelNames> {
        Ok(LabelNames::new())
    }

    /// Writes a new file, which appears under `path` only when whole. Values that `voxel_type` does not hold are an
    /// error.
    fn write_volume(&self, path: &Path, volume: &Volume, voxel_type: VoxelType) -> Result<()>;

    /// Writes a label map exactly where the image with the header `source` lies, with `names` where the format has
    /// room for them. Appears under `path` only when whole; labels on another grid than the source's are an error.
    fn write_label_map(
        &self,
        path: &Path,
        labels: &LabelMap,
        source: &VolumeHeader,
        names: &LabelNames,
    ) -> Result<()>;

    /// Writes a mask, 0 and 1, as [`write_label_map`](Self::write_label_map). A format that writes piece by piece
    /// overrides this, so that no whole mask has to be in memory.
    fn write_mask(&self, path: &Path, source: &VolumeHeader, mask: &MaskPiece) -> Result<()> {
        let grid = source.grid;
        let mut bytes = vec![0; grid.voxels()];
        mask(0..bytes.len(), &mut bytes);
        let data = Array3::from_shape_vec(grid.shape_zyx(), bytes)
            .map_err(|error| Error::file(path, format!("mask does not fill the grid: {error}")))?;
        let labels = LabelMap {
            grid,
            data: data.mapv(u16::from),
        };
        self.write_label_map(path, &labels, source, &LabelNames::new())
    }
}
