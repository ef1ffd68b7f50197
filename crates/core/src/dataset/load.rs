//! Reads cases into memory.

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
    /// Size of the voxels in memory, in bytes.
    pub fn bytes(&self) -> usize {
        self.volume.bytes() + self.labels.bytes()
    }
}

impl Dataset {
    /// Reads the CT volume of a case, in HU as stored or rescaled by [`Dataset::reading`].
    pub fn load_image(&self, case: &Case) -> Result<VolumeImage> {
        let mut image = self.copies.read(&case.image, read_volume)?;
        self.reading.rescale(&mut image);
        Ok(image)
    }

    /// Reads the labels of a case into one label map; binary masks are merged, the later value wins. Ignored
    /// voxels keep the value [`Dataset::ignore`].
    ///
    /// The map is on its file's grid, or that of the first mask. Fails if the case has no labels, a file cannot be
    /// read, or masks have different grids.
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
            LabelSource::PerStructure(files) => merge_masks(files, &self.copies, &self.reading),
        }
    }

    /// Reads image and labels of a case, with the labels reoriented to the image's axes. Also fails if the grids
    /// differ by more than the tolerance of [`Dataset::reading`].
    pub fn load(&self, case: &Case) -> Result<LoadedCase> {
        let VolumeImage {
            header,
            volume,
            non_finite,
        } = self.load_image(case)?;
        let labels = self.load_labels(case)?;
        let (labels, _) = self
            .reading
            .grid_tolerance
            .placed(labels, &volume.grid, "image")
            .map_err(|problem| {
                let file = match &case.labels {
                    LabelSource::Map(path) => path,
                    LabelSource::PerStructure(files) => {
                        files.first().map_or(&case.image, |(_, p)| p)
                    }
                    LabelSource::None => &case.image,
                };
                Error::file(file, problem)
            })?;
        Ok(LoadedCase {
            volume,
            labels,
            header,
            non_finite,
        })
    }
}
