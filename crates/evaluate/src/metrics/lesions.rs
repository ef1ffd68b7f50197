//! Detection of lesions: connected components of the structure.

use super::kind::{Better, Metric};

pub const F1: Metric = Metric::new("lesion_f1", Better::Higher, |pair| pair.detection.f1());

pub const SENSITIVITY: Metric = Metric::new("lesion_sensitivity", Better::Higher, |pair| {
    pair.detection.sensitivity()
});

pub const PRECISION: Metric = Metric::new("lesion_precision", Better::Higher, |pair| {
    pair.detection.precision()
});

pub const REFERENCE: Metric = Metric::new("lesions_reference", Better::Neither, |pair| {
    Some(pair.detection.reference as f64)
});

pub const FOUND: Metric = Metric::new("lesions_found", Better::Neither, |pair| {
    Some(pair.detection.found as f64)
});

pub const PREDICTED: Metric = Metric::new("lesions_predicted", Better::Neither, |pair| {
    Some(pair.detection.predicted as f64)
});

pub const FALSE_POSITIVE: Metric = Metric::new("lesions_false_positive", Better::Neither, |pair| {
    Some(pair.detection.false_positive as f64)
});
