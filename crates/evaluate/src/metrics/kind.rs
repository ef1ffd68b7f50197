//! What a metric is, and what it is computed from.

use ctseg_image::labels::bounding_box::Extent;
use ctseg_image::labels::run_length_mask::RunMask;
use ctseg_image::metrics::lesions::Detection;
use ctseg_image::metrics::overlap::Overlap;
use ctseg_image::metrics::surface::SurfaceDistances;
use ctseg_image::space::Grid;

/// A metric of one case and structure.
pub struct Metric {
    /// Name in tables and files, with its unit.
    pub name: &'static str,
    pub better: Better,
    /// None if undefined.
    pub measure: fn(&StructurePair) -> Option<f64>,
}

/// Which direction of a metric is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Higher,
    /// Smaller magnitudes: distances, and differences of either sign.
    Lower,
    /// Descriptive: neither direction is better.
    Neither,
}

impl Metric {
    pub(super) const fn new(
        name: &'static str,
        better: Better,
        measure: fn(&StructurePair) -> Option<f64>,
    ) -> Self {
        Self {
            name,
            better,
            measure,
        }
    }
}

/// A structure in the prediction and in the reference.
pub struct StructurePair<'a> {
    pub overlap: Overlap,
    pub voxel_ml: f64,
    pub detection: Detection,
    /// None if the structure is in neither map.
    pub masks: Option<Masks<'a>>,
}

/// Where a structure is.
pub struct Masks<'a> {
    pub prediction: &'a RunMask,
    pub reference: &'a RunMask,
    pub grid: &'a Grid,
    /// In the prediction and in the reference.
    pub extents: [Extent; 2],
    pub surfaces: SurfaceDistances,
    /// Tolerance of the surface Dice.
    pub tolerance_mm: f64,
}

impl StructurePair<'_> {
    /// A structure that is in neither map, in a volume of `voxels` voxels.
    pub fn absent(voxels: u64, voxel_ml: f64) -> Self {
        Self {
            overlap: Overlap {
                true_negative: voxels,
                ..Overlap::default()
            },
            voxel_ml,
            detection: Detection::default(),
            masks: None,
        }
    }
}
