//! The trait that every volume file format implements.

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

/// Fills a buffer with a range of a mask's voxels in file order: 1 inside, 0 outside.
pub type MaskPiece<'a> = dyn Fn(Range<usize>, &mut [u8]) + Sync + 'a;

/// A format whose files hold one volume of one channel each.
///
/// To add a format, implement this in a file of its own and list it in [`FORMATS`](super::FORMATS). Errors name the
/// file ([`Source::problem`]), what was found, what was expected and what to do. Compare every header with
/// [`Source::length`] before trusting it.
///
/// Only NIfTI supports more, through functions of [`nifti`](crate::nifti): files of several channels
/// (`read_channels`, `write_split`, `write_joined`), maps that are written and read slice by slice (`write_map`,
/// `write_maps`, `ByteMaps`), byte-for-byte copies, and the fields of its own header.
pub trait VolumeFormat: Sync {
    /// File endings in lower case with their dot, in the order in which messages list them.
    fn endings(&self) -> &'static [&'static str];

    /// Whether content that begins with `start` is of this format. `start` holds
    /// [`START_BYTES`](super::START_BYTES) bytes (fewer only if the content is shorter), decompressed if gzip.
    fn identify(&self, start: &[u8]) -> bool;

    /// Reads and checks the header; damage beyond it may go unnoticed.
    fn read_header(&self, source: Source) -> Result<VolumeHeader>;

    /// Reads a volume as `f32`, with the header's scaling applied; shape (z, y, x), x fastest.
    fn read_volume(&self, source: Source) -> Result<VolumeImage>;

    /// Reads a label map; shape (z, y, x), x fastest. Values other than integers from 0 to 65535 are an error.
    fn read_label_map(&self, source: Source) -> Result<(VolumeHeader, LabelMap)>;

    /// [`read_label_map`](Self::read_label_map) as runs. A format that can read in chunks overrides this, so that
    /// memory does not grow with the volume.
    fn read_label_runs(&self, source: Source) -> Result<(VolumeHeader, LabelRuns)> {
        let (header, labels) = self.read_label_map(source)?;
        Ok((header, LabelRuns::from(&labels)))
    }

    /// The label names stored in a label map; empty for formats that cannot store them.
    fn read_label_names(&self, _source: Source) -> Result<LabelNames> {
        Ok(LabelNames::new())
    }

    /// Writes a new file atomically: it appears under `path` only once complete. Values out of the range of
    /// `voxel_type` are an error.
    fn write_volume(&self, path: &Path, volume: &Volume, voxel_type: VoxelType) -> Result<()>;

    /// Writes a label map on exactly the grid of the image with the header `source`, with `names` if the format can
    /// store them. The file appears under `path` only once complete. Labels on another grid are an error.
    fn write_label_map(
        &self,
        path: &Path,
        labels: &LabelMap,
        source: &VolumeHeader,
        names: &LabelNames,
    ) -> Result<()>;

    /// Writes a mask of 0 and 1, as [`write_label_map`](Self::write_label_map). A format that can write in chunks
    /// overrides this, so that the mask need not be in memory as a whole.
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
