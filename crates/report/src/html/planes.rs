//! A case packed for the page: a reduced volume in display order, with grey values as a sheet of slices in one JPEG
//! and labels losslessly compressed.
//!
//! Voxels run from the patient's right to the left, from front to back, from the feet up (x, y, z; LPS), so that an
//! axial slice reads as radiologists look at it. Hounsfield units are 8-bit numbers, in finer steps where tissue is, see
//! [`super::sheet::KNOTS`].

use ndarray::{ArrayView3, Axis, Zip, s};
use serde::Serialize;

use super::downsample::{fitting_shape, mean, nearest};
use super::sheet::{Sheet, Slots, companded};
use crate::data::case::CaseImages;
use crate::pictures::views::{LabelCounts, body, in_ras, spacing_in_ras};
use ctseg_base::{Error, Result};
use ctseg_core::dataset::Structure;
use ctseg_core::inference::roi::map_box;
use ctseg_image::space::Orientation;

/// Maximum number of voxels: what phone browsers can decode at once.
const MAX_VOXELS: usize = 5_000_000;

/// Minimum angle between voxel and patient axes that is mentioned.
const OBLIQUE_DEGREES: f64 = 2.0;

/// One case.
#[derive(Debug, Clone, Serialize)]
pub struct Planes {
    /// Voxels along x, y, z.
    pub shape: [usize; 3],
    pub mm: [f64; 3],
    /// Number of slices in a row of the sheet.
    pub columns: usize,
    /// Size of a slice in the sheet, in pixels.
    pub tile: [usize; 2],
    /// Limits of stage 1's region of interest along x, y, z, in voxels (faces, not centres).
    pub roi: Option<[[f64; 2]; 3]>,
    /// Whether labels are 16-bit (little-endian) instead of 8-bit.
    pub wide: bool,
    /// Differences from the file, as text.
    pub reduced: Vec<String>,
    /// JPEG and zlib streams in base64.
    #[serde(skip)]
    pub image: String,
    #[serde(skip)]
    pub reference: String,
    #[serde(skip)]
    pub prediction: String,
}

impl Planes {
    /// Size of the case in the page, in characters.
    pub fn bytes(&self) -> usize {
        self.image.len() + self.reference.len() + self.prediction.len()
    }
}

/// The part of a case's voxels that contains the patient, in display order, without copying.
struct View<'a> {
    image: ArrayView3<'a, f32>,
    reference: ArrayView3<'a, u16>,
    prediction: ArrayView3<'a, u16>,
    mm: [f64; 3],
    /// Fraction of the file's voxels.
    share: f64,
    roi: Option<[[f64; 2]; 3]>,
}

/// Packs a case into at most `max_bytes` characters, coarsening voxels as needed. Labels become 1 plus the position in
/// `structures`; other labels become background.
///
/// # Errors
/// `max_bytes` is too small.
pub fn packed(case: &CaseImages, structures: &[Structure], max_bytes: usize) -> Result<Planes> {
    let view = View::of(case)?;
    let mut max_voxels = MAX_VOXELS;
    for _ in 0..6 {
        let planes = view.packed(structures, max_voxels, case)?;
        if planes.bytes() <= max_bytes {
            return Ok(planes);
        }
        let voxels: usize = planes.shape.iter().product();
        let share = 0.9 * max_bytes as f64 / planes.bytes() as f64;
        max_voxels = ((voxels as f64 * share) as usize).max(1);
    }
    Err(Error::invalid(format!(
        "the case does not fit into {max_bytes} bytes of the page; increase --max-size or show fewer --cases"
    )))
}

impl<'a> View<'a> {
    fn of(case: &'a CaseImages) -> Result<Self> {
        let grid = &case.volume.grid;
        let image = in_ras(case.volume.data.view(), grid);
        let reference = in_ras(case.reference.data.view(), grid);
        let prediction = in_ras(case.prediction.data.view(), grid);
        let mm = spacing_in_ras(grid);
        let labelled = Zip::from(reference)
            .and(prediction)
            .map_collect(|reference, prediction| *reference.max(prediction));
        let [z, y, x] = body(image, &LabelCounts::of(labelled.view()), mm);
        drop(labelled);
        let ras = grid.reoriented(Orientation::RAS);
        let roi = case.roi.map(|roi| map_box(&roi, grid, &ras)).transpose()?;
        // Display order runs from right to left and from front to back, opposite to RAS.
        let faces = |start: usize, end: usize, shown: &std::ops::Range<usize>, turned: bool| {
            let place = |at: usize| match turned {
                true => shown.end as f64 - at as f64,
                false => at as f64 - shown.start as f64,
            };
            let (a, b) = (place(start), place(end));
            [a.min(b), a.max(b)]
        };
        let roi = roi.map(|roi| {
            [
                faces(roi.start[0], roi.end[0], &x, true),
                faces(roi.start[1], roi.end[1], &y, true),
                faces(roi.start[2], roi.end[2], &z, false),
            ]
        });
        let shown = z.len() * y.len() * x.len();
        Ok(Self {
            share: shown as f64 / image.len() as f64,
            image: displayed(image.slice_move(s![z.clone(), y.clone(), x.clone()])),
            reference: displayed(reference.slice_move(s![z.clone(), y.clone(), x.clone()])),
            prediction: displayed(prediction.slice_move(s![z, y, x])),
            mm,
            roi,
        })
    }

    fn packed(&self, structures: &[Structure], most: usize, case: &CaseImages) -> Result<Planes> {
        let (z, y, x) = self.image.dim();
        let shape = fitting_shape([x, y, z], self.mm, most);
        let zyx = [shape[2], shape[1], shape[0]];
        let factor: [f64; 3] =
            std::array::from_fn(|axis| [x, y, z][axis] as f64 / shape[axis] as f64);
        let mm: [f64; 3] = std::array::from_fn(|axis| self.mm[axis] * factor[axis]);
        let sheet = Sheet::of(shape);
        let grey = mean(self.image, zyx).mapv(companded);
        let slots = Slots::of(structures);
        let labels = |map: ArrayView3<u16>| slots.deflated(&nearest(map, zyx));
        let roi = self.roi.map(|faces| {
            std::array::from_fn(|axis| faces[axis].map(|at| rounded(at / factor[axis])))
        });
        Ok(Planes {
            shape,
            mm: mm.map(rounded),
            columns: sheet.columns,
            tile: sheet.tile,
            roi,
            wide: slots.wide,
            reduced: self.reduced(mm, shape != [x, y, z], case),
            image: sheet.jpeg(&grey)?,
            reference: labels(self.reference)?,
            prediction: labels(self.prediction)?,
        })
    }

    fn reduced(&self, mm: [f64; 3], is_coarser: bool, case: &CaseImages) -> Vec<String> {
        let spacing = |mm: [f64; 3]| mm.map(|v| format!("{v:.2}")).join(" × ");
        let mut words = Vec::new();
        match is_coarser {
            true => words.push(format!(
                "voxels of {} mm instead of {} mm: thin structures and small differences may not be visible",
                spacing(mm),
                spacing(self.mm)
            )),
            false => words.push(format!("voxels as in the file, {} mm", spacing(mm))),
        }
        if self.share < 0.995 {
            words.push(format!(
                "cropped to the patient and the structures, {:.0} % of the volume",
                100.0 * self.share
            ));
        }
        let degrees = obliqueness(case);
        if degrees > OBLIQUE_DEGREES {
            words.push(format!(
                "oblique scan: its axes are rotated by {degrees:.0}° from the patient's; planes follow the scan"
            ));
        }
        words
    }
}

/// Converts (superior, anterior, right), all increasing, to display order: rows from the front, columns from the right.
fn displayed<T>(mut view: ArrayView3<T>) -> ArrayView3<T> {
    view.invert_axis(Axis(1));
    view.invert_axis(Axis(2));
    view
}

/// The largest angle between a voxel axis and the nearest patient axis.
fn obliqueness(case: &CaseImages) -> f64 {
    let grid = &case.volume.grid;
    let (own, mm) = (grid.orientation(), grid.spacing_mm());
    let cosines = (0..3).map(|axis| grid.affine[own.axes[axis]][axis].abs() / mm[axis]);
    let smallest = cosines.fold(1.0, f64::min);
    smallest.clamp(0.0, 1.0).acos().to_degrees()
}

fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::*;
    use crate::html::sheet::inflated;
    use ctseg_image::space::{Grid, LabelMap, Volume, VoxelBox};

    fn structures(count: u16) -> Vec<Structure> {
        (1..=count)
            .map(|value| Structure {
                value: 10 * value,
                name: format!("s{value}"),
            })
            .collect()
    }

    /// Tissue everywhere, and one voxel of label 20 on the right, at the front, at the feet.
    fn case(grid: Grid) -> CaseImages {
        let ras = grid.reoriented(Orientation::RAS);
        let map = ras.map_to(&grid).unwrap();
        let corner = [ras.shape[0] - 1, ras.shape[1] - 1, 0];
        let mut at = [0; 3];
        for (axis, index) in corner.into_iter().enumerate() {
            at[map[axis].axis] = (map[axis].scale * index as f64 + map[axis].offset) as usize;
        }
        let mut prediction = LabelMap::empty(grid);
        prediction.data[[at[2], at[1], at[0]]] = 20;
        prediction.data[[at[2], at[1], (at[0] + 1) % grid.shape[0]]] = 999; // no structure
        let region = VoxelBox {
            start: at,
            end: at.map(|index| index + 1),
        };
        CaseImages {
            volume: Volume {
                grid,
                data: Array3::from_elem(grid.shape_zyx(), 50.0),
            },
            reference: LabelMap::empty(grid),
            prediction,
            roi: Some(region),
            notes: Vec::new(),
        }
    }

    #[test]
    fn every_orientation_is_shown_the_same_way() {
        let grid = Grid::with_spacing([6, 4, 3], [2.0, 3.0, 5.0]);
        for orientation in Orientation::all() {
            let planes = packed(&case(grid.reoriented(orientation)), &structures(3), 100_000);
            let planes = planes.unwrap();
            assert_eq!(planes.shape, [6, 4, 3], "{orientation}");
            assert_eq!(planes.mm, [2.0, 3.0, 5.0]);
            let labels = inflated(&planes.prediction);
            assert_eq!(labels.len(), 72);
            assert_eq!(
                labels[0], 2,
                "first on the right, at the front, at the feet"
            );
            assert_eq!(labels.iter().filter(|label| **label > 0).count(), 1);
            assert_eq!(planes.roi, Some([[0.0, 1.0]; 3]), "{orientation}");
            assert!(inflated(&planes.reference).iter().all(|label| *label == 0));
        }
    }

    #[test]
    fn many_structures_take_two_bytes_and_a_small_limit_coarsens_voxels() {
        let grid = Grid::with_spacing([80, 60, 40], [1.0, 1.0, 2.0]);
        let mut case = case(grid);
        let mut seed = 1u32;
        case.volume.data.mapv_inplace(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 22) as f32
        });
        let whole = packed(&case, &structures(300), 10_000_000).unwrap();
        assert!(whole.wide && inflated(&whole.prediction).len() == 2 * 80 * 60 * 40);
        assert!(
            whole.reduced[0].contains("as in the file"),
            "{:?}",
            whole.reduced
        );
        let most = whole.bytes() / 5;
        let small = packed(&case, &structures(300), most).unwrap();
        // Means of noise take much less room than noise.
        assert!(small.bytes() <= most && small.bytes() > most / 20);
        assert!(small.reduced[0].contains("instead of 1.00 × 1.00 × 2.00 mm"));
        let mm = small.mm[0] * small.shape[0] as f64;
        assert!((mm - 80.0).abs() < 1e-2, "{mm}");
        assert!(packed(&case, &structures(3), 20).is_err());
    }
}
