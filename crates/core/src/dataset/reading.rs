//! How the files of a dataset are read: grid tolerance and rescaling to Hounsfield units.

use serde::{Deserialize, Serialize};

use ctseg_image::formats::VolumeImage;
use ctseg_image::preprocess::rescale_hu::RescaleHu;
use ctseg_image::space::GridTolerance;

/// The user's settings for a dataset's files; a run stores them for resuming.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reading {
    /// How far the grids of image and labels may differ.
    #[serde(default)]
    pub grid_tolerance: GridTolerance,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescale_hu: Option<RescaleHu>,
}

impl Reading {
    /// Whether all settings have their defaults.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Rescales an image to Hounsfield units if requested, and adds a note to its header's warnings.
    pub fn rescale(&self, image: &mut VolumeImage) {
        let rescaled = self.rescale_hu.and_then(|how| how.apply(&mut image.volume));
        image.header.warnings.extend(rescaled);
    }
}
