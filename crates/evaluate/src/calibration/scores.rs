//! Calibration of structures, of cases and of all together.

use ctseg_base::failures::Failure;
use ctseg_core::dataset::Structure;
use ctseg_image::metrics::calibration::Reliability;
use ctseg_image::metrics::overlap::Summary;

/// How far beyond a structure's voxels, along each axis of the file, its surroundings go.
pub const MARGIN_MM: f64 = 10.0;

/// One of the figures of a curve, such as [`Reliability::brier`].
pub type Figure = fn(&Reliability) -> Option<f64>;

/// What is measured of a structure.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Measured {
    /// In the box around its voxels in reference and label map with [`MARGIN_MM`] on every side. This is what counts:
    /// elsewhere nearly every probability is 0, and rightly, so that any model seems calibrated on whole scans (boxes
    /// around the structure, as in Mehrtash et al., IEEE Transactions on Medical Imaging 2020).
    pub near: Reliability,
    pub whole: Reliability,
}

impl Measured {
    fn join(&mut self, other: &Self) {
        self.near.join(&other.near);
        self.whole.join(&other.whole);
    }
}

/// One case's probabilities against its reference.
#[derive(Debug, Clone)]
pub struct CaseMeasured {
    pub case: String,
    /// One per structure of the evaluation; none where the probabilities have no map of it.
    pub structures: Vec<Option<Measured>>,
}

/// All cases.
#[derive(Debug, Clone)]
pub struct Calibration {
    pub structures: Vec<Structure>,
    pub cases: Vec<CaseMeasured>,
    /// Probabilities that are there and cannot be used.
    pub failures: Vec<Failure>,
    /// Cases that were compared and have no probabilities.
    pub without: Vec<String>,
}

impl Calibration {
    /// All voxels of all cases of a structure (by its place), nothing where no case has probabilities of it.
    pub fn of_structure(&self, structure: usize) -> Measured {
        joined(
            self.cases
                .iter()
                .filter_map(|case| case.structures[structure].as_ref()),
        )
    }

    /// All voxels of all structures of all cases.
    pub fn of_all(&self) -> Measured {
        let all: Vec<Measured> = (0..self.structures.len())
            .map(|s| self.of_structure(s))
            .collect();
        joined(all.iter())
    }

    /// The mean over structures of what is measured near them; none where no structure has any voxels there.
    pub fn mean_near(&self, of: Figure) -> Option<f64> {
        self.mean(|measured| of(&measured.near))
    }

    /// As [`Calibration::mean_near`], of whole volumes.
    pub fn mean_whole(&self, of: Figure) -> Option<f64> {
        self.mean(|measured| of(&measured.whole))
    }

    fn mean(&self, of: impl Fn(&Measured) -> Option<f64>) -> Option<f64> {
        Summary::of((0..self.structures.len()).map(|s| of(&self.of_structure(s)))).mean
    }

    /// What trackers that keep numbers by name are told.
    pub fn points(&self) -> Vec<(String, f64)> {
        let named = [
            (
                "calibration/ece",
                self.mean_near(Reliability::expected_error),
            ),
            (
                "calibration/mce",
                self.mean_near(Reliability::maximum_error),
            ),
            ("calibration/brier", self.mean_near(Reliability::brier)),
            (
                "calibration/ece_whole",
                self.mean_whole(Reliability::expected_error),
            ),
        ];
        let known = named.into_iter();
        known
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect()
    }
}

pub(super) fn joined<'a>(all: impl Iterator<Item = &'a Measured>) -> Measured {
    let mut sum = Measured::default();
    all.for_each(|measured| sum.join(measured));
    sum
}
