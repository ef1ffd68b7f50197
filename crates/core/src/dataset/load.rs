//! Cases read into memory.

use super::grid_check::grid_difference;
use super::structures::merge_masks;
use super::{Case, Dataset, LabelSource};
use ctseg_base::{Error, Result};
use ctseg_image::formats::{VolumeHeader, VolumeImage, read_label_map, read_volume};
use ctseg_image::space::{LabelMap, Volume};

/// A case in memory: image and labels on one grid, and the image file's header.
#[derive(Debug)]
pub struct LoadedCase {
    pub volume: Volume,
    pub labels: LabelMap,
    pub header: VolumeHeader,
    /// Voxels of `volume` that are NaN or infinite.
    pub non_finite: usize,
}

impl LoadedCase {
    /// Bytes that the voxels take in memory.
    pub fn bytes(&self) -> usize {
        self.volume.bytes() + self.labels.bytes()
    }
}

impl Dataset {
    /// Reads the CT volume of a case, in HU as stored.
    pub fn load_image(&self, case: &Case) -> Result<VolumeImage> {
        self.copies.read(&case.image, read_volume)
    }

    /// Reads the labels of a case into one label map; binary masks are merged, the later value wins. Voxels
    /// of which nothing is known keep their value, [`Dataset::ignore`].
    ///
    /// Errors if the case has no labels, a file cannot be read, or masks do not lie on one grid.
    pub fn load_labels(&self, case: &Case) -> Result<LabelMap> {
        match &case.labels {
            LabelSource::None => Err(Error::file(
                &case.image,
                format!(
                    "case '{}' has no labels in dataset '{}'",
                    case.id, self.name
                ),
            )),
            LabelSource::Map(path) => Ok(self.copies.read(path, read_label_map)?.1),
            LabelSource::PerStructure(files) => merge_masks(files, &self.copies),
        }
    }

    /// Reads image and labels of a case. Errors also if the two do not lie on one grid, to within
    /// [`GRID_TOLERANCE_MM`](super::GRID_TOLERANCE_MM).
    pub fn load(&self, case: &Case) -> Result<LoadedCase> {
        let VolumeImage {
            header,
            volume,
            non_finite,
        } = self.load_image(case)?;
        let mut labels = self.load_labels(case)?;
        if let Some(problem) = grid_difference(&labels.grid, &volume.grid) {
            let file = match &case.labels {
                LabelSource::Map(path) => path,
                LabelSource::PerStructure(files) => files.first().map_or(&case.image, |(_, p)| p),
                LabelSource::None => &case.image,
            };
            return Err(Error::file(file, problem));
        }
        labels.grid = volume.grid;
        Ok(LoadedCase {
            volume,
            labels,
            header,
            non_finite,
        })
    }
}
