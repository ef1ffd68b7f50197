//! What makes intensities implausible as Hounsfield units, in words.

use std::fmt;

use crate::window::Window;

/// Why the intensities of a volume are implausible as Hounsfield units.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Suspicion {
    /// No voxel is finite.
    NoValue,
    /// All voxels have this value.
    Constant(f32),
    /// The range of values is too narrow.
    Normalised {
        /// The lowest value.
        low: f32,
        /// The highest value.
        high: f32,
    },
    /// All values fit into a byte.
    Bytes {
        /// The lowest value.
        low: f32,
        /// The highest value.
        high: f32,
    },
    /// Negative values have wrapped around: [`WRAP`](super::hounsfield::WRAP) must be subtracted.
    Wrapped {
        /// Fraction of the voxels that have wrapped around.
        share: f64,
    },
    /// [`SCANNER_OFFSET_HU`](super::hounsfield::SCANNER_OFFSET_HU) was not subtracted.
    Offset,
    /// Too many voxels are above anything in a patient.
    TooHigh {
        /// Fraction of the voxels above it.
        share: f64,
    },
    /// The lowest value is too high: there should be fat and air.
    NoAir {
        /// The lowest value.
        low: f32,
    },
    /// Too many voxels have the lowest value, which is not air.
    Cut {
        /// Fraction of the voxels with the lowest value.
        share: f64,
        /// The lowest value.
        low: f32,
    },
    /// Too few voxels are soft tissue.
    NoTissue {
        /// Fraction of the voxels that are.
        share: f64,
    },
    /// Too few voxels are in the range that a model was trained on.
    Untrained {
        /// Fraction of the voxels in that range.
        share: f64,
        /// The range.
        trained: Window,
    },
}

impl Suspicion {
    /// The warning for a volume: what is suspicious, and what to do.
    pub fn warning(&self) -> String {
        format!(
            "its values do not look like Hounsfield units: {self}; {}",
            self.remedy()
        )
    }

    /// What to do about it, with `--rescale-hu` if that is safe.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Offset => "subtract it, or use --rescale-hu auto",
            Self::Wrapped { .. } => {
                "write the file with signed integers, or use --rescale-hu auto, which subtracts 65536"
            }
            Self::NoValue | Self::Constant(_) => "export the image again",
            _ => {
                "export the image in Hounsfield units, or give the scale with --rescale-hu OFFSET,SLOPE (HU = value × SLOPE + OFFSET)"
            }
        }
    }
}

impl fmt::Display for Suspicion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        match *self {
            Self::NoValue => write!(f, "no voxel has a finite value"),
            Self::Constant(value) => write!(f, "every voxel has the value {value}"),
            Self::Normalised { low, high } => write!(
                f,
                "all values lie from {low} to {high}, as in a normalised image or a label map"
            ),
            Self::Bytes { low, high } => write!(
                f,
                "all values lie from {low} to {high}, as in an 8-bit image or a label map"
            ),
            Self::Wrapped { share } => write!(
                f,
                "{} of the voxels lie just below 65536, where unsigned integers put negative values",
                percent(share)
            ),
            Self::Offset => write!(
                f,
                "air seems to lie near 0 and soft tissue near 1024, as if 1024 had not been subtracted"
            ),
            Self::TooHigh { share } => write!(f, "{} of the voxels lie above 3000", percent(share)),
            Self::NoAir { low } => write!(
                f,
                "the lowest value is {low}, with hardly any below 0; air is at -1000, fat near -100"
            ),
            Self::Cut { share, low } => write!(
                f,
                "{} of the voxels have the lowest values, from {low} up, but air is at -1000; clipped to a window or scaled?",
                percent(share)
            ),
            Self::NoTissue { share } => write!(
                f,
                "only {} of the voxels lie from -250 to 350, where soft tissue is",
                percent(share)
            ),
            Self::Untrained { share, trained } => write!(
                f,
                "only {} of the voxels lie from {} to {}, the range that the model was trained on",
                percent(share),
                trained.low_hu,
                trained.high_hu
            ),
        }
    }
}
