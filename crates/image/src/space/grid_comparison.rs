//! Whether two grids match: by the largest distance between corresponding corners, in voxels.

// Indices are axes here, and most loops index several matrices.
#![allow(clippy::needless_range_loop)]

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::affine::inverse;
use super::grid::largest;
use super::{Grid, LabelMap, Reorientation};
use ctseg_base::Error;

/// Shifts up to this many voxels are ignored: headers are rounded.
const SILENT_VOXELS: f64 = 0.01;

/// Shifts beyond this many voxels are warnings, smaller ones notes.
const WARNING_VOXELS: f64 = 0.1;

impl Grid {
    /// Whether `other` has the same shape and the same voxel positions, to within `tolerance_mm` at every corner.
    pub fn same_as(&self, other: &Grid, tolerance_mm: f64) -> bool {
        self.shape == other.shape && self.largest_shift_mm(other) <= tolerance_mm
    }

    /// The largest distance in mm between corresponding corners (voxel centres) of two grids of equal shape.
    pub fn largest_shift_mm(&self, other: &Grid) -> f64 {
        self.largest_shift(other, |mm| mm)
    }

    /// [`Self::largest_shift_mm`] in voxels of `other`; infinite if its voxels span no volume.
    pub fn largest_shift_voxels(&self, other: &Grid) -> f64 {
        let Some(inverse) = inverse(&other.affine) else {
            return f64::INFINITY;
        };
        self.largest_shift(other, |mm| {
            std::array::from_fn(|row| (0..3).map(|i| inverse[row][i] * mm[i]).sum())
        })
    }

    fn largest_shift(&self, other: &Grid, measured: impl Fn([f64; 3]) -> [f64; 3]) -> f64 {
        largest((0..8).map(|bits| {
            let corner: [f64; 3] = std::array::from_fn(|axis| {
                if bits >> axis & 1 == 1 {
                    self.shape[axis] as f64 - 1.0
                } else {
                    0.0
                }
            });
            let (a, b) = (self.world_mm(corner), other.world_mm(corner));
            let apart = measured(std::array::from_fn(|row| a[row] - b[row]));
            apart.iter().map(|v| v * v).sum::<f64>().sqrt()
        }))
    }

    /// Describes how the grid of labels differs from `other`, the grid of the image called `name`.
    pub fn difference_from(&self, other: &Grid, name: &str) -> String {
        let what = match self.shape == other.shape {
            true => format!(
                "position, by up to {:.3} mm, {:.2} voxels,",
                self.largest_shift_mm(other),
                self.largest_shift_voxels(other)
            ),
            false => "shape".to_owned(),
        };
        format!(
            "the labels differ in {what} from their {name}: labels {}; {name} {}",
            self.in_words(),
            other.in_words()
        )
    }

    /// Shape and position for messages: `128×128×64 voxels of 1×1×2.5 mm, RAS, first voxel at (0, 0, 0) mm`.
    fn in_words(&self) -> String {
        let join =
            |values: [f64; 3], by: &str| values.map(|v| rounded(v, 1e4).to_string()).join(by);
        let mut words = format!(
            "{} voxels of {} mm, {}, first voxel at ({}) mm",
            self.shape.map(|v| v.to_string()).join("×"),
            join(self.spacing_mm(), "×"),
            self.orientation(),
            join(self.world_mm([0.0; 3]), ", ")
        );
        // Report a tilt, but not the rounding of float32 headers.
        let (spacing, orientation) = (self.spacing_mm(), self.orientation());
        let tilted = (0..3).any(|axis| {
            let along = self.affine[orientation.axes[axis]][axis].abs();
            (spacing[axis] - along) > 1e-6 * spacing[axis]
        });
        if tilted {
            let rows = self.affine.map(|row| {
                let row = row.map(|v| rounded(v, 1e5).to_string());
                format!("[{}]", row.join(" "))
            });
            words += &format!(", affine {}", rows.join(" "));
        }
        words
    }
}

fn rounded(value: f64, steps: f64) -> f64 {
    // Adding zero turns -0 into 0.
    (value * steps).round() / steps + 0.0
}

/// The largest distance between corresponding corners of two grids, in voxels, up to which they match; 0.5 by default.
/// Voxels of matching grids are used one to one, without resampling. Grids whose axes are in another order or direction
/// are compared after a [`Reorientation`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct GridTolerance {
    voxels: f64,
}

/// A note or warning about a file whose grid matches another only within the tolerance; it follows the file name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GridMismatch {
    /// How the grids differ, in one line.
    pub text: String,
    /// Whether it is a warning rather than a note.
    pub is_warning: bool,
}

/// How a grid maps to another one.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Match {
    reorientation: Reorientation,
    shift_voxels: f64,
    shift_mm: f64,
}

impl GridTolerance {
    /// The reorientation that puts an array on the grid `labels` onto the grid `other`, and a note about the
    /// difference, if any. `name` is what `other` is the grid of, such as "image".
    ///
    /// # Errors
    /// If the grids do not match: how they differ and what to do.
    pub fn reorientation(
        &self,
        labels: &Grid,
        other: &Grid,
        name: &str,
    ) -> Result<(Reorientation, Option<GridMismatch>), String> {
        let found = closest(labels, other).filter(|found| found.shift_voxels <= self.voxels);
        let found = found.ok_or_else(|| self.difference(labels, other, name))?;
        let Match {
            reorientation,
            shift_voxels,
            shift_mm,
        } = found;
        let mismatch = (shift_voxels > SILENT_VOXELS).then(|| GridMismatch {
            text: format!(
                "is up to {shift_voxels:.2} voxels ({shift_mm:.3} mm) off its {name}; used voxel for voxel, without resampling"
            ),
            is_warning: shift_voxels > WARNING_VOXELS,
        });
        Ok((reorientation, mismatch))
    }

    /// `labels` on the grid `other`, reoriented if their axes differ; see [`GridTolerance::reorientation`].
    ///
    /// # Errors
    /// Those of [`GridTolerance::reorientation`].
    pub fn placed(
        &self,
        labels: LabelMap,
        other: &Grid,
        name: &str,
    ) -> Result<(LabelMap, Option<GridMismatch>), String> {
        let (reorientation, mismatch) = self.reorientation(&labels.grid, other, name)?;
        let labels = LabelMap {
            grid: *other,
            data: reorientation.apply(labels.data),
        };
        Ok((labels, mismatch))
    }

    /// Whether the grids match without reorientation.
    pub fn is_same(&self, grid: &Grid, other: &Grid) -> bool {
        grid.shape == other.shape && grid.largest_shift_voxels(other) <= self.voxels
    }

    fn difference(&self, labels: &Grid, other: &Grid, name: &str) -> String {
        let advice = match labels.shape == other.shape {
            true => format!(
                "correct the header that is wrong, or accept more than {self} voxels with --grid-tolerance"
            ),
            false => "or correct the header that is wrong".to_owned(),
        };
        format!(
            "{}; resample the labels onto the {name}, {advice}",
            labels.difference_from(other, name)
        )
    }
}

/// The reorientation that brings the corners of `grid` closest to those of `other`; `None` if none gives its shape.
fn closest(grid: &Grid, other: &Grid) -> Option<Match> {
    let matched = |reorientation: Reorientation| {
        let reoriented = grid.reoriented_by(&reorientation);
        (reoriented.shape == other.shape).then(|| Match {
            reorientation,
            shift_voxels: reoriented.largest_shift_voxels(other),
            shift_mm: reoriented.largest_shift_mm(other),
        })
    };
    let unchanged = matched(Reorientation::IDENTITY);
    if unchanged.is_some_and(|found| found.shift_voxels <= SILENT_VOXELS) {
        return unchanged;
    }
    let all = Reorientation::all().filter_map(matched);
    // In a tie (an axis of one voxel), the first.
    all.reduce(|best, found| match found.shift_voxels < best.shift_voxels {
        true => found,
        false => best,
    })
}

impl Default for GridTolerance {
    fn default() -> Self {
        Self { voxels: 0.5 }
    }
}

impl fmt::Display for GridTolerance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.voxels.fmt(f)
    }
}

impl TryFrom<f64> for GridTolerance {
    type Error = Error;

    fn try_from(voxels: f64) -> Result<Self, Error> {
        match voxels.is_finite() && voxels >= 0.0 {
            true => Ok(Self { voxels }),
            false => Err(Error::invalid(format!(
                "{voxels} is not a valid tolerance; expected a number of voxels of at least 0, such as 0.5"
            ))),
        }
    }
}

impl From<GridTolerance> for f64 {
    fn from(tolerance: GridTolerance) -> Self {
        tolerance.voxels
    }
}

impl FromStr for GridTolerance {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let voxels: f64 = text.trim().parse().map_err(|_| {
            Error::invalid(format!(
                "'{text}' is not a number; expected a number of voxels of at least 0, such as 0.5"
            ))
        })?;
        voxels.try_into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array3;

    fn grid() -> Grid {
        let mut grid = Grid::with_spacing([3, 4, 5], [0.8, 0.8, 3.0]);
        grid.affine[0][3] = 90.0;
        grid
    }

    /// [`grid`], moved along x by `voxels`.
    fn moved(voxels: f64) -> Grid {
        let mut moved = grid();
        moved.affine[0][3] += 0.8 * voxels;
        moved
    }

    #[test]
    fn a_nan_grid_matches_no_grid() {
        let mut broken = grid();
        broken.affine[1][3] = f64::NAN;
        assert!(!grid().same_as(&broken, 1e9));
        assert!(!broken.same_as(&broken, 1e9));
        let any = GridTolerance::try_from(1e9).unwrap();
        assert!(any.reorientation(&broken, &grid(), "image").is_err());
        assert!(any.reorientation(&grid(), &broken, "image").is_err());
    }

    #[test]
    fn the_farthest_corner_decides_between_note_warning_and_error() {
        let result = |voxels: f64| {
            let fits = GridTolerance::default().reorientation(&moved(voxels), &grid(), "image");
            fits.map(|(reorientation, mismatch)| {
                assert_eq!(reorientation, Reorientation::IDENTITY);
                mismatch.map(|mismatch| (mismatch.is_warning, mismatch.text))
            })
        };
        assert_eq!(result(0.0), Ok(None));
        assert_eq!(result(0.009), Ok(None));
        let (is_warning, text) = result(0.09).unwrap().unwrap();
        assert!(
            !is_warning && text.contains("0.09 voxels (0.072 mm)"),
            "{text}"
        );
        assert!(result(0.11).unwrap().unwrap().0);
        assert!(result(0.49).unwrap().unwrap().0);
        let refused = result(0.51).unwrap_err();
        for part in [
            "position, by up to 0.408 mm, 0.51 voxels,",
            "0.5 voxels with --grid-tolerance",
        ] {
            assert!(refused.contains(part), "{refused}");
        }
        // A wrong voxel size counts where it matters most: at the far end of the longest axis.
        let mut stretched = grid();
        stretched.affine[2][2] = 3.06;
        let (_, mismatch) = GridTolerance::default()
            .reorientation(&stretched, &grid(), "image")
            .unwrap();
        assert!(mismatch.unwrap().text.contains("0.08 voxels (0.240 mm)"));
    }

    #[test]
    fn the_tolerance_can_be_set() {
        let given: GridTolerance = "2.5".parse().unwrap();
        assert!(
            given
                .reorientation(&moved(2.4), &grid(), "image")
                .unwrap()
                .1
                .unwrap()
                .is_warning
        );
        assert!(given.reorientation(&moved(2.6), &grid(), "image").is_err());
        let exact: GridTolerance = "0".parse().unwrap();
        assert!(
            exact
                .reorientation(&moved(0.005), &grid(), "image")
                .is_err()
        );
        for wrong in ["-1", "nan", "inf", "x", ""] {
            assert!(wrong.parse::<GridTolerance>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn labels_with_other_axes_are_reoriented_in_place() {
        let data = Array3::from_shape_fn(grid().shape_zyx(), |(z, y, x)| {
            (x + 10 * y + 100 * z) as u16
        });
        let labels = LabelMap {
            grid: moved(0.05),
            data,
        };
        for reorientation in Reorientation::all() {
            let saved = LabelMap {
                grid: labels.grid.reoriented_by(&reorientation),
                data: reorientation.apply(labels.data.clone()),
            };
            let (found, mismatch) = GridTolerance::default()
                .placed(saved, &grid(), "image")
                .unwrap();
            assert_eq!(
                (found.data, found.grid),
                (labels.data.clone(), grid()),
                "{reorientation:?}"
            );
            assert!(mismatch.unwrap().text.contains("0.05 voxels"));
        }
        let other = Grid::with_spacing([3, 4, 6], [0.8, 0.8, 3.0]);
        let refused = GridTolerance::default()
            .reorientation(&other, &grid(), "reference")
            .unwrap_err();
        assert!(
            refused.starts_with(
                "the labels differ in shape from their reference: labels 3×4×6 voxels"
            ) && !refused.contains("--grid-tolerance"),
            "{refused}"
        );
    }
}
