//! NIfTI as a [`VolumeFormat`].

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use super::header::NiftiHeader;
use super::identify::identify;
use super::names::ENDINGS;
use super::read::{NiftiImage, label_names_from, label_runs_from, labels_from, volume_from};
use super::read_header::header_from;
use super::write::{write_mask, write_named_labels, write_volume};
use crate::formats::{
    LabelNames, MaskPiece, Source, VolumeFormat, VolumeHeader, VolumeImage, VoxelType,
};
use crate::labels::run_length_labels::LabelRuns;
use crate::space::{LabelMap, Volume};
use ctseg_base::Result;

/// NIfTI-1 and NIfTI-2 single files.
pub struct Nifti;

impl VolumeFormat for Nifti {
    fn endings(&self) -> &'static [&'static str] {
        &ENDINGS
    }

    fn identify(&self, start: &[u8]) -> bool {
        identify(start).is_ok()
    }

    fn read_header(&self, mut source: Source) -> Result<VolumeHeader> {
        Ok(header_from(&mut source)?.into())
    }

    fn read_volume(&self, source: Source) -> Result<VolumeImage> {
        let NiftiImage {
            header,
            volume,
            non_finite,
        } = volume_from(source)?;
        Ok(VolumeImage {
            header: header.into(),
            volume,
            non_finite,
        })
    }

    fn read_label_map(&self, source: Source) -> Result<(VolumeHeader, LabelMap)> {
        let (header, labels) = labels_from(source)?;
        Ok((header.into(), labels))
    }

    fn read_label_runs(&self, source: Source) -> Result<(VolumeHeader, LabelRuns)> {
        let (header, runs) = label_runs_from(source)?;
        Ok((header.into(), runs))
    }

    fn read_label_names(&self, source: Source) -> Result<LabelNames> {
        label_names_from(source)
    }

    fn write_volume(&self, path: &Path, volume: &Volume, voxel_type: VoxelType) -> Result<()> {
        write_volume(path, volume, voxel_type)
    }

    fn write_label_map(
        &self,
        path: &Path,
        labels: &LabelMap,
        source: &VolumeHeader,
        names: &LabelNames,
    ) -> Result<()> {
        write_named_labels(path, labels, &*NiftiHeader::of(source)?, names)
    }

    fn write_mask(&self, path: &Path, source: &VolumeHeader, mask: &MaskPiece) -> Result<()> {
        write_mask(path, &*NiftiHeader::of(source)?, mask)
    }
}

impl From<NiftiHeader> for VolumeHeader {
    fn from(header: NiftiHeader) -> Self {
        Self {
            grid: header.grid(),
            voxel_type: header.voxel_type,
            voxel_mm3: header.voxel_mm3(),
            warnings: header.warnings.clone(),
            native: Some(Arc::new(header)),
        }
    }
}

impl NiftiHeader {
    /// The header for writing label maps and other maps: the image's own if it is NIfTI, otherwise a new one for its
    /// grid ([`NiftiHeader::for_grid`]).
    pub fn of(image: &VolumeHeader) -> Result<Cow<'_, Self>> {
        match image.native() {
            Some(header) => Ok(Cow::Borrowed(header)),
            None => Self::for_grid(&image.grid).map(Cow::Owned),
        }
    }
}
