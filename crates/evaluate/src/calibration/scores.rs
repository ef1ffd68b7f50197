//! Calibration per structure, per case and overall.

use ctseg_base::failures::Failure;
use ctseg_core::dataset::Structure;
use ctseg_image::metrics::calibration::Reliability;
use ctseg_image::metrics::overlap::Summary;

/// Margin of the near region around a structure's voxels, along each axis of the file.
pub const MARGIN_MM: f64 = 10.0;

/// A metric of a reliability curve, such as [`Reliability::brier`].
pub type CalibrationMetric = fn(&Reliability) -> Option<f64>;

/// Reliability of one structure's probabilities.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StructureCalibration {
    /// In the bounding box of its voxels in reference and label map, grown by [`MARGIN_MM`] on every side. This is the
    /// region that matters: elsewhere nearly every probability is correctly 0, so any model looks calibrated on whole
    /// scans (boxes around the structure, as in Mehrtash et al., IEEE Transactions on Medical Imaging 2020).
    pub near: Reliability,
    /// In the whole volume.
    pub whole: Reliability,
}

impl StructureCalibration {
    fn join(&mut self, other: &Self) {
        self.near.merge(&other.near);
        self.whole.merge(&other.whole);
    }
}

#[derive(Debug, Clone)]
pub struct CaseCalibration {
    pub case: String,
    /// One per structure of the evaluation; none if the file has no probability map of it.
    pub structures: Vec<Option<StructureCalibration>>,
}

#[derive(Debug, Clone)]
pub struct Calibration {
    pub structures: Vec<Structure>,
    pub cases: Vec<CaseCalibration>,
    /// Probability files that could not be used.
    pub failures: Vec<Failure>,
    /// Compared cases without saved probabilities.
    pub without_probabilities: Vec<String>,
}

impl Calibration {
    /// One structure (by index) pooled over all cases; empty if no case has probabilities of it.
    pub fn of_structure(&self, structure: usize) -> StructureCalibration {
        joined(
            self.cases
                .iter()
                .filter_map(|case| case.structures[structure].as_ref()),
        )
    }

    /// All structures and cases pooled.
    pub fn of_all(&self) -> StructureCalibration {
        let all: Vec<StructureCalibration> = (0..self.structures.len())
            .map(|s| self.of_structure(s))
            .collect();
        joined(all.iter())
    }

    /// Mean over structures of a metric in the near region; none if no structure has voxels there.
    pub fn mean_near(&self, metric: CalibrationMetric) -> Option<f64> {
        self.mean(|measured| metric(&measured.near))
    }

    /// As [`Calibration::mean_near`], over whole volumes.
    pub fn mean_whole(&self, metric: CalibrationMetric) -> Option<f64> {
        self.mean(|measured| metric(&measured.whole))
    }

    fn mean(&self, of: impl Fn(&StructureCalibration) -> Option<f64>) -> Option<f64> {
        Summary::of((0..self.structures.len()).map(|s| of(&self.of_structure(s)))).mean
    }

    /// Metrics by name for trackers. Undefined values are omitted.
    pub fn tracker_metrics(&self) -> Vec<(String, f64)> {
        let named = [
            (
                "calibration/ece",
                self.mean_near(Reliability::expected_calibration_error),
            ),
            (
                "calibration/mce",
                self.mean_near(Reliability::maximum_calibration_error),
            ),
            ("calibration/brier", self.mean_near(Reliability::brier)),
            (
                "calibration/ece_whole",
                self.mean_whole(Reliability::expected_calibration_error),
            ),
        ];
        named
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect()
    }
}

pub(super) fn joined<'a>(
    all: impl Iterator<Item = &'a StructureCalibration>,
) -> StructureCalibration {
    let mut sum = StructureCalibration::default();
    all.for_each(|measured| sum.join(measured));
    sum
}
