//! The scores of one structure in one case, and the metrics derived from them.

use ctseg_image::metrics::lesions::Detection;
use ctseg_image::metrics::overlap::Overlap;
use ctseg_image::metrics::surface::SurfaceDistances;

/// One structure of one case.
#[derive(Debug, Clone, PartialEq)]
pub struct StructureScores {
    pub overlap: Overlap,
    pub voxel_ml: f64,
    /// None if either mask is empty; the same holds for the next three.
    pub hausdorff_mm: Option<f64>,
    pub hd95_mm: Option<f64>,
    pub assd_mm: Option<f64>,
    pub centroid_distance_mm: Option<f64>,
    /// At the structure's tolerance; 0 if one mask is empty, none if both are.
    pub surface_dice: Option<f64>,
    pub detection: Detection,
}

impl StructureScores {
    /// Scores of a structure that is in neither map, in a volume of `voxels` voxels.
    pub fn absent(voxels: u64, voxel_ml: f64) -> Self {
        let overlap = Overlap {
            true_negative: voxels,
            ..Overlap::default()
        };
        Self {
            overlap,
            voxel_ml,
            hausdorff_mm: None,
            hd95_mm: None,
            assd_mm: None,
            centroid_distance_mm: None,
            surface_dice: None,
            detection: Detection::default(),
        }
    }

    /// Adds the surface metrics.
    pub fn with_surfaces(self, surfaces: &SurfaceDistances, tolerance_mm: f64) -> Self {
        Self {
            hausdorff_mm: surfaces.hausdorff_mm(),
            hd95_mm: surfaces.robust_hausdorff_mm(95.0),
            assd_mm: surfaces.average_mm(),
            surface_dice: surfaces.surface_dice(tolerance_mm),
            ..self
        }
    }

    fn reference_ml(&self) -> f64 {
        self.overlap.reference_voxels() as f64 * self.voxel_ml
    }

    fn prediction_ml(&self) -> f64 {
        self.overlap.predicted_voxels() as f64 * self.voxel_ml
    }

    fn volume_error_ml(&self) -> f64 {
        self.prediction_ml() - self.reference_ml()
    }
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

/// A metric of one case and structure.
pub struct Metric {
    /// Name in tables and files, with its unit.
    pub name: &'static str,
    /// None if undefined.
    pub of: fn(&StructureScores) -> Option<f64>,
    pub better: Better,
}

const fn metric(
    name: &'static str,
    better: Better,
    of: fn(&StructureScores) -> Option<f64>,
) -> Metric {
    Metric { name, of, better }
}

/// All metrics, in the order of their columns.
pub const METRICS: [Metric; 22] = [
    metric("dice", Better::Higher, |s| s.overlap.dice()),
    metric("iou", Better::Higher, |s| s.overlap.iou()),
    metric("precision", Better::Higher, |s| s.overlap.precision()),
    metric("recall", Better::Higher, |s| s.overlap.recall()),
    metric("specificity", Better::Higher, |s| s.overlap.specificity()),
    metric("accuracy", Better::Higher, |s| s.overlap.accuracy()),
    metric("surface_dice", Better::Higher, |s| s.surface_dice),
    metric("hd95_mm", Better::Lower, |s| s.hd95_mm),
    metric("assd_mm", Better::Lower, |s| s.assd_mm),
    metric("hausdorff_mm", Better::Lower, |s| s.hausdorff_mm),
    metric("centroid_distance_mm", Better::Lower, |s| {
        s.centroid_distance_mm
    }),
    metric("reference_ml", Better::Neither, |s| Some(s.reference_ml())),
    metric("prediction_ml", Better::Neither, |s| {
        Some(s.prediction_ml())
    }),
    metric("volume_error_ml", Better::Neither, |s| {
        Some(s.volume_error_ml())
    }),
    metric("relative_volume_error", Better::Neither, |s| {
        let reference_ml = s.reference_ml();
        (reference_ml > 0.0).then(|| s.volume_error_ml() / reference_ml)
    }),
    metric("lesion_f1", Better::Higher, |s| s.detection.f1()),
    metric("lesion_sensitivity", Better::Higher, |s| {
        s.detection.sensitivity()
    }),
    metric("lesion_precision", Better::Higher, |s| {
        s.detection.precision()
    }),
    metric("lesions_reference", Better::Neither, |s| {
        Some(s.detection.reference as f64)
    }),
    metric("lesions_found", Better::Neither, |s| {
        Some(s.detection.found as f64)
    }),
    metric("lesions_predicted", Better::Neither, |s| {
        Some(s.detection.predicted as f64)
    }),
    metric("lesions_false_positive", Better::Neither, |s| {
        Some(s.detection.false_positive as f64)
    }),
];

pub fn metric_by_name(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.name == name)
}
