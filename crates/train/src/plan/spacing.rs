//! Which spacings stages work on.

use ctseg_core::dataset::fingerprint::{Fingerprint, percentile};

/// An axis with more than so many times the spacing of the next coarsest is thick (nnU-Net's `ANISO_THRESHOLD`).
const THICK: f64 = 3.0;

/// Stage 1 works on these (mm): the finest on which a median slice is small enough.
const COARSE_MM: [f64; 5] = [4.0, 4.5, 5.0, 5.5, 6.0];

/// Voxels along x and y up to which a slice is small enough for stage 1.
const COARSE_SIDE: f64 = 128.0;

/// A spacing along x, y, z, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    pub mm: [f64; 3],
    pub why: String,
}

/// The spacing of the result: each axis' median over the cases or, on an axis that is more than three times
/// coarser than the others, its 10th percentile, but no finer than those (nnU-Net's rule).
pub fn target(fingerprint: &Fingerprint) -> Chosen {
    let mut mm = fingerprint.median_spacing_mm;
    let thickest = (0..3).max_by(|a, b| mm[*a].total_cmp(&mm[*b])).unwrap_or(2);
    let others = (0..3).filter(|axis| *axis != thickest).map(|axis| mm[axis]);
    let others = others.fold(0.0, f64::max);
    let mut why = "the median of the cases".to_owned();
    if mm[thickest] > THICK * others {
        let own = fingerprint
            .cases
            .iter()
            .map(|case| case.spacing_mm[thickest]);
        let fine = percentile(own, 10.0).max(others);
        why = format!(
            "the median of the cases; along {} 10 % of the cases are this fine, the median of {:.2} is more than three times the others",
            ["x", "y", "z"][thickest],
            mm[thickest]
        );
        mm[thickest] = fine;
    }
    Chosen {
        mm: mm.map(rounded),
        why,
    }
}

/// The spacing of stage 1: one between 4 and 6 mm, on no axis finer than the data.
pub fn coarse(fingerprint: &Fingerprint) -> Chosen {
    let extent = fingerprint.median_extent_mm;
    let fits = |mm: &f64| extent[0].max(extent[1]) / mm <= COARSE_SIDE;
    let last = COARSE_MM[COARSE_MM.len() - 1];
    let side = COARSE_MM.into_iter().find(fits).unwrap_or(last);
    let why = format!(
        "the finest of 4 to 6 mm on which a median slice ({:.0} × {:.0} mm) has at most {COARSE_SIDE} × {COARSE_SIDE} voxels{}",
        extent[0],
        extent[1],
        if fits(&side) {
            ""
        } else {
            " (none: the coarsest)"
        }
    );
    Chosen {
        mm: fingerprint
            .median_spacing_mm
            .map(|mm| rounded(mm.max(side))),
        why,
    }
}

/// To hundredths of a millimetre.
fn rounded(mm: f64) -> f64 {
    (mm * 100.0).round().max(1.0) / 100.0
}
