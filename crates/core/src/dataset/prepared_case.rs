//! A case as networks see it.

use std::sync::OnceLock;

use ndarray::{Array3, Array4};

use super::class_locations::StructureIndex;
use ctseg_image::preprocess::normalisation::Scaling;

/// A case on the network's grid.
pub struct PreparedCase {
    /// Value of the labels of which nothing is known.
    pub ignore: Option<u16>,
    /// (channel, z, y, x)
    pub channels: Array4<f32>,
    /// (z, y, x)
    pub labels: Array3<u16>,
    /// Where augmentation changes them.
    pub hu: Option<CaseHu>,
    /// Of the image channels.
    pub scalings: Vec<Scaling>,
    pub index: OnceLock<StructureIndex>,
}

/// A case's Hounsfield units beyond its windows, see [`ctseg_image::preprocess::channels::hounsfield_from`].
pub struct CaseHu {
    pub zero_hu: f32,
    /// (z, y, x)
    pub above: Array3<f32>,
}

impl PreparedCase {
    /// Where its structures lie; found when first asked for.
    pub fn index(&self) -> &StructureIndex {
        let found = || StructureIndex::new(&self.labels, self.ignore);
        self.index.get_or_init(found)
    }

    /// Whether a label says what is there, be it background.
    pub fn is_known(&self, label: u16) -> bool {
        Some(label) != self.ignore
    }

    pub fn is_structure(&self, label: u16) -> bool {
        label > 0 && self.is_known(label)
    }

    pub fn bytes(&self) -> usize {
        let hu = self.hu.as_ref().map_or(0, |hu| hu.above.len());
        (self.channels.len() + hu) * 4 + self.labels.len() * 2
    }
}
