//! How the files of a dataset are read: which grids count as one, and how values become Hounsfield units.

use serde::{Deserialize, Serialize};

use ctseg_image::formats::VolumeImage;
use ctseg_image::preprocess::rescale_hu::RescaleHu;
use ctseg_image::space::GridTolerance;

/// What the user says about a dataset's files; a run keeps it for when it is resumed.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reading {
    /// How far image and labels may lie apart.
    #[serde(default)]
    pub grid_tolerance: GridTolerance,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescale_hu: Option<RescaleHu>,
}

impl Reading {
    /// Whether nothing was said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Brings an image's values to Hounsfield units where that was asked for; what was done is added to its header's
    /// warnings.
    pub fn rescale(&self, image: &mut VolumeImage) {
        let rescaled = self.rescale_hu.and_then(|how| how.apply(&mut image.volume));
        image.header.warnings.extend(rescaled);
    }
}
