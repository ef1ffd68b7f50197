//! Chooses the spacing of each stage.

use ctseg_core::dataset::fingerprint::{Fingerprint, percentile};

/// An axis with more than this many times the spacing of the next coarsest one is anisotropic (nnU-Net's
/// `ANISO_THRESHOLD`).
const ANISOTROPY_THRESHOLD: f64 = 3.0;

/// Spacings for stage 1, in mm: the finest on which a median slice is small enough is used.
const COARSE_MM: [f64; 5] = [4.0, 4.5, 5.0, 5.5, 6.0];

/// Maximum size of a median slice along x and y for stage 1, in voxels.
const COARSE_MAX_SIDE: f64 = 128.0;

/// A spacing along x, y, z, with the reason.
#[derive(Debug, Clone, PartialEq)]
pub struct ChosenSpacing {
    pub mm: [f64; 3],
    pub why: String,
}

/// The target spacing: the median over the cases of each axis or, for an axis more than three times coarser than the
/// others, its 10th percentile, but no finer than the others (nnU-Net's rule).
pub fn target(fingerprint: &Fingerprint) -> ChosenSpacing {
    let mut mm = fingerprint.median_spacing_mm;
    let thickest = (0..3).max_by(|a, b| mm[*a].total_cmp(&mm[*b])).unwrap_or(2);
    let others = (0..3).filter(|axis| *axis != thickest).map(|axis| mm[axis]);
    let others = others.fold(0.0, f64::max);
    let mut why = "the median of the cases".to_owned();
    if mm[thickest] > ANISOTROPY_THRESHOLD * others {
        let own = fingerprint
            .cases
            .iter()
            .map(|case| case.spacing_mm[thickest]);
        let fine = percentile(own, 10.0).max(others);
        why = format!(
            "the median of the cases; along {} the 10th percentile, because the median of {:.2} is more than three times the others",
            ["x", "y", "z"][thickest],
            mm[thickest]
        );
        mm[thickest] = fine;
    }
    ChosenSpacing {
        mm: mm.map(rounded),
        why,
    }
}

/// The spacing of stage 1: between 4 and 6 mm, and no finer than the data along any axis.
pub fn coarse(fingerprint: &Fingerprint) -> ChosenSpacing {
    let extent = fingerprint.median_extent_mm;
    let fits = |mm: &f64| extent[0].max(extent[1]) / mm <= COARSE_MAX_SIDE;
    let last = COARSE_MM[COARSE_MM.len() - 1];
    let side = COARSE_MM.into_iter().find(fits).unwrap_or(last);
    let why = format!(
        "the finest of 4 to 6 mm on which a median slice ({:.0} × {:.0} mm) has at most {COARSE_MAX_SIDE} × {COARSE_MAX_SIDE} voxels{}",
        extent[0],
        extent[1],
        if fits(&side) {
            ""
        } else {
            " (none does: the coarsest)"
        }
    );
    ChosenSpacing {
        mm: fingerprint
            .median_spacing_mm
            .map(|mm| rounded(mm.max(side))),
        why,
    }
}

/// Rounds to hundredths of a millimetre.
fn rounded(mm: f64) -> f64 {
    (mm * 100.0).round().max(1.0) / 100.0
}
