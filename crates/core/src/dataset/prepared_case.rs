//! A case on the network's grid.

use std::sync::OnceLock;

use ndarray::{Array3, Array4};

use super::class_locations::StructureIndex;
use ctseg_image::preprocess::normalisation::Scaling;

/// A case on the network's grid.
pub struct PreparedCase {
    /// The ignore label.
    pub ignore: Option<u16>,
    /// (channel, z, y, x)
    pub channels: Array4<f32>,
    /// (z, y, x)
    pub labels: Array3<u16>,
    /// Only if augmentation changes Hounsfield units.
    pub hu: Option<CaseHu>,
    /// One per image channel.
    pub scalings: Vec<Scaling>,
    pub index: OnceLock<StructureIndex>,
}

/// A case's Hounsfield units outside its windows, see [`ctseg_image::preprocess::channels::relative_hounsfield`].
pub struct CaseHu {
    pub zero_hu: f32,
    /// (z, y, x)
    pub above: Array3<f32>,
}

impl PreparedCase {
    /// Positions of its structures; computed on first use.
    pub fn index(&self) -> &StructureIndex {
        let build = || StructureIndex::new(&self.labels, self.ignore);
        self.index.get_or_init(build)
    }

    /// Whether a label is annotated (background included), not the ignore label.
    pub fn is_annotated(&self, label: u16) -> bool {
        Some(label) != self.ignore
    }

    pub fn is_structure(&self, label: u16) -> bool {
        label > 0 && self.is_annotated(label)
    }

    pub fn bytes(&self) -> usize {
        let hu = self.hu.as_ref().map_or(0, |hu| hu.above.len());
        (self.channels.len() + hu) * 4 + self.labels.len() * 2
    }
}
