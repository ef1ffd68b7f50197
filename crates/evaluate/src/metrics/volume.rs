//! Volumes.

use super::kind::{Better, Metric, StructurePair};

pub const REFERENCE_ML: Metric = Metric::new("reference_ml", Better::Neither, |pair| {
    Some(pair.reference_ml())
});

pub const PREDICTION_ML: Metric = Metric::new("prediction_ml", Better::Neither, |pair| {
    Some(pair.prediction_ml())
});

pub const VOLUME_ERROR_ML: Metric = Metric::new("volume_error_ml", Better::Neither, |pair| {
    Some(pair.volume_error_ml())
});

pub const RELATIVE_VOLUME_ERROR: Metric =
    Metric::new("relative_volume_error", Better::Neither, |pair| {
        let reference_ml = pair.reference_ml();
        (reference_ml > 0.0).then(|| pair.volume_error_ml() / reference_ml)
    });

impl StructurePair<'_> {
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
