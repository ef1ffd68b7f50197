//! The list of metrics.

use super::kind::Metric;

/// All metrics, in the order of their columns.
pub static METRICS: &[Metric] = &[
    super::overlap::DICE,
    super::overlap::IOU,
    super::overlap::PRECISION,
    super::overlap::RECALL,
    super::overlap::SPECIFICITY,
    super::overlap::ACCURACY,
    super::surface::SURFACE_DICE,
    super::surface::HD95_MM,
    super::surface::ASSD_MM,
    super::surface::HAUSDORFF_MM,
    super::surface::CENTROID_DISTANCE_MM,
    super::volume::REFERENCE_ML,
    super::volume::PREDICTION_ML,
    super::volume::VOLUME_ERROR_ML,
    super::volume::RELATIVE_VOLUME_ERROR,
    super::lesions::F1,
    super::lesions::SENSITIVITY,
    super::lesions::PRECISION,
    super::lesions::REFERENCE,
    super::lesions::FOUND,
    super::lesions::PREDICTED,
    super::lesions::FALSE_POSITIVE,
];

/// The metric of this name.
pub fn metric_by_name(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.name == name)
}
