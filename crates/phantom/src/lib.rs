//! Phantoms: synthetic CT volumes of the torso with exact labels, for training and testing without data.
//!
//! A patient is a stack of analytic shapes (ellipsoids, tubes, domes) in its own frame, deformed by a smooth random
//! field and placed on a table. Every voxel of a CT grid is evaluated at its centre in world coordinates: its label is
//! the structure whose shape contains the centre, and its HU are a mix weighted by the fraction of the voxel that each
//! shape covers. The volume is then stored in one of the 48 orientations.
//!
//! Liver, spleen, stomach wall, pancreas and muscle have similar HU, as do kidneys, vessels and bowel with contrast
//! agent, so that no threshold separates them.

#![forbid(unsafe_code)]

mod anatomy;
mod bounds;
mod case_rng;
mod field;
mod frame;
mod layers;
mod noise;
mod organs;
mod patient;
mod shapes;
mod slices;
mod vectors;

pub use slices::{SLICE_SPACING_MM, SLICE_STRUCTURES, generate_slice};

use ndarray::{Array2, Array3, Axis, Zip};
use rand::Rng;
use rand::seq::IndexedRandom;
use rayon::prelude::*;

use ctseg_image::space::{Grid, LabelMap, Orientation, Volume};

use anatomy::Anatomy;
use case_rng::case_rng;
use noise::Noise;
use vectors::{IDENTITY, Point, minus, plus, rotated, rotation};

/// Label values and names (TotalSegmentator's) of the structures in a phantom's label map.
pub const STRUCTURES: &[(u16, &str)] = &[
    (layers::LIVER, "liver"),
    (layers::SPLEEN, "spleen"),
    (layers::KIDNEY_LEFT, "kidney_left"),
    (layers::KIDNEY_RIGHT, "kidney_right"),
    (layers::STOMACH, "stomach"),
];

/// Options for generating phantoms; ranges are (low, high).
#[derive(Debug, Clone, PartialEq)]
pub struct PhantomOptions {
    /// Seed of the whole set, combined with each case's own seed.
    pub seed: u64,
    /// Range of the in-plane voxel spacing in mm; larger patients get larger voxels.
    pub in_plane_mm: (f64, f64),
    /// Range of the distance between axial slices in mm; longer scans get thicker slices.
    pub slice_mm: (f64, f64),
    /// Range of the noise's standard deviation in HU.
    pub noise_hu: (f64, f64),
    /// Storage orientation; `None` samples from all 48 orientations, preferring common ones.
    pub orientation: Option<Orientation>,
    /// Fraction of cases, 0 to 1, whose axes are a few degrees off the patient's.
    pub oblique_share: f64,
}

impl Default for PhantomOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            in_plane_mm: (2.0, 3.0),
            slice_mm: (3.0, 5.0),
            noise_hu: (10.0, 16.0),
            orientation: None,
            oblique_share: 0.25,
        }
    }
}

/// Limits of the voxel spacing in mm, regardless of the options.
const SPACING_LIMITS_MM: (f64, f64) = (0.7, 12.0);

/// The volume and label map of one case, on the same grid.
///
/// With default options about 100–145 × 80–120 × 60–90 voxels (right–left, anterior–posterior, inferior–superior),
/// stored in the chosen orientation. HU are integers from -1024 to 3071. Spacings are clamped to 0.7 to 12 mm, noise to
/// 0 to 200 HU. The same seeds and options give the same bytes, whatever the number of threads.
pub fn generate(case_seed: u64, options: &PhantomOptions) -> (Volume, LabelMap) {
    let mut rng = case_rng(case_seed, options.seed);
    let anatomy = Anatomy::draw(&mut rng);
    let grid = draw_grid(&anatomy, options, &mut rng);
    let orientation = options
        .orientation
        .unwrap_or_else(|| draw_orientation(&mut rng));
    let noise_hu = within(options.noise_hu, (0.0, 200.0), rng.random_range(0.0..1.0));
    let angle = rng.random_range(0.45f64..0.8);
    let noise = Noise {
        seed: rng.random(),
        white_hu: noise_hu * angle.cos(),
        correlated_hu: noise_hu * angle.sin(),
    };
    let (hu, labels) = render(&anatomy, &grid, &noise);
    let grid = grid.reoriented(orientation);
    (
        Volume {
            grid,
            data: stored(hu, orientation),
        },
        LabelMap {
            grid,
            data: stored(labels, orientation),
        },
    )
}

/// Interpolates linearly in `range` by `t` (0 to 1), with both ends clamped to `limits`.
fn within(range: (f64, f64), limits: (f64, f64), t: f64) -> f64 {
    // Not `clamp`, which would propagate NaN.
    let kept = |v: f64| v.max(limits.0).min(limits.1);
    kept(range.0) + (kept(range.1) - kept(range.0)) * t
}

/// A grid in RAS orientation (up to a tilt) around the patient that contains all organs.
fn draw_grid(anatomy: &Anatomy, options: &PhantomOptions, rng: &mut impl Rng) -> Grid {
    let patient = &anatomy.patient;
    let length = rng.random_range(0.0..1.0);
    let field_mm = [
        2.0 * patient.skin[0] + rng.random_range(24.0..50.0),
        2.0 * patient.skin[1] + 30.0 + rng.random_range(15.0..38.0),
        250.0 + 80.0 * length,
    ];
    let half_t = 0.5 * rng.random_range(0.0..1.0);
    let in_plane = within(
        options.in_plane_mm,
        SPACING_LIMITS_MM,
        half_t + 0.5 * patient.size,
    );
    let half_t = 0.5 * rng.random_range(0.0..1.0);
    let slice = within(options.slice_mm, SPACING_LIMITS_MM, half_t + 0.5 * length);
    let spacing = [in_plane, in_plane, slice];
    let shape: [usize; 3] = std::array::from_fn(|i| (field_mm[i] / spacing[i]).ceil() as usize);
    // The scan may be centred anywhere as long as it covers 112 mm (nominal) up and down.
    let spare = (0.5 * field_mm[2] - 112.0 * patient.scale).max(0.0);
    let centre = [
        rng.random_range(-8.0..8.0),
        rng.random_range(-8.0..4.0) - 12.0,
        spare * rng.random_range(-0.8..1.0),
    ];
    let tilt = if rng.random_bool(within((0.0, options.oblique_share), (0.0, 1.0), 1.0)) {
        rotation([4.0; 3].map(|r| rng.random_range(-r..r)))
    } else {
        IDENTITY
    };
    let middle: Point = std::array::from_fn(|i| spacing[i] * (shape[i] as f64 - 1.0) / 2.0);
    let corner = minus(plus(anatomy.origin_mm, centre), rotated(&tilt, middle));
    let mut affine = [[0.0; 4]; 3];
    for row in 0..3 {
        for axis in 0..3 {
            affine[row][axis] = tilt[row][axis] * spacing[axis];
        }
        affine[row][3] = corner[row];
    }
    Grid { shape, affine }
}

fn draw_orientation(rng: &mut impl Rng) -> Orientation {
    const FLIPS: [[bool; 3]; 3] = [
        [true, true, false],   // LPS, as DICOM
        [true, false, false],  // LAS, as many converters
        [false, false, false], // RAS
    ];
    if rng.random_bool(0.6) {
        let flipped = *FLIPS.choose(rng).unwrap_or(&FLIPS[0]);
        return Orientation {
            flipped,
            ..Orientation::RAS
        };
    }
    let all: Vec<Orientation> = Orientation::all().collect();
    *all.choose(rng).unwrap_or(&Orientation::RAS)
}

/// HU and labels on `grid`, in arrays of shape (z, y, x).
fn render(anatomy: &Anatomy, grid: &Grid, noise: &Noise) -> (Array3<f32>, Array3<u16>) {
    let [nx, ny, nz] = grid.shape;
    let steps = [0, 1, 2].map(|axis| [0, 1, 2].map(|row| grid.affine[row][axis]));
    let slices: Vec<(Array2<f32>, Array2<u16>)> = (0..nz)
        .into_par_iter()
        .map(|z| {
            let noise = noise.slice(z, nx, ny);
            let mut hu = Array2::zeros((ny, nx));
            let mut labels = Array2::zeros((ny, nx));
            let rows = hu.outer_iter_mut().zip(labels.outer_iter_mut());
            for (y, (mut hu, mut labels)) in rows.enumerate() {
                let world = |x: usize| grid.world_mm([x, y, z].map(|v| v as f64));
                let row = anatomy.row(world(0), world(nx - 1), steps);
                for x in 0..nx {
                    let (value, label) = row.sample(world(x));
                    let value = (value + noise[y * nx + x]).round();
                    hu[x] = value.clamp(-1024.0, 3071.0) as f32;
                    labels[x] = label;
                }
            }
            (hu, labels)
        })
        .collect();
    let mut hu = Array3::zeros(grid.shape_zyx());
    let mut labels = Array3::zeros(grid.shape_zyx());
    let targets = hu.axis_iter_mut(Axis(0)).zip(labels.axis_iter_mut(Axis(0)));
    for ((mut hu, mut labels), slice) in targets.zip(slices) {
        hu.assign(&slice.0);
        labels.assign(&slice.1);
    }
    (hu, labels)
}

/// The array (z, y, x) of a RAS grid in the voxel order of `orientation`, as [`Grid::reoriented`].
fn stored<T: Copy + Send + Sync + Default>(ras: Array3<T>, orientation: Orientation) -> Array3<T> {
    let axes = [2, 1, 0].map(|axis| 2 - orientation.axes[axis]);
    let mut view = ras.permuted_axes(axes);
    for axis in 0..3 {
        if orientation.flipped[axis] {
            view.invert_axis(Axis(2 - axis));
        }
    }
    let mut result = Array3::default(view.dim());
    Zip::from(&mut result)
        .and(&view)
        .par_for_each(|to, from| *to = *from);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_match_the_shape_at_the_voxel_centre_in_any_orientation() {
        let coarse = PhantomOptions {
            in_plane_mm: (5.0, 6.0),
            slice_mm: (6.0, 8.0),
            oblique_share: 0.5,
            ..PhantomOptions::default()
        };
        for (case, orientation) in Orientation::all().enumerate() {
            let case = case as u64 / 6;
            let options = PhantomOptions {
                orientation: Some(orientation),
                ..coarse.clone()
            };
            let (volume, labels) = generate(case, &options);
            assert_eq!(labels.grid.orientation(), orientation);
            assert_eq!(volume.grid, labels.grid);
            assert_eq!(volume.data.dim(), labels.grid.shape_zyx().into());
            let anatomy = Anatomy::draw(&mut case_rng(case, options.seed));
            let mut disputed = 0;
            for ((z, y, x), label) in labels.data.indexed_iter() {
                if (x + 3 * y + 7 * z) % 11 == 0 {
                    let centre = labels.grid.world_mm([x, y, z].map(|v| v as f64));
                    // Only a centre on a surface, within rounding, may go either way.
                    disputed += usize::from(anatomy.label_at(centre) != *label);
                }
            }
            assert!(
                disputed <= 1,
                "{orientation}: {disputed} labels differ from the shape"
            );
        }
    }

    #[test]
    fn invalid_options_are_clamped() {
        let options = PhantomOptions {
            in_plane_mm: (f64::NAN, 1e9),
            slice_mm: (9.0, -3.0),
            noise_hu: (-5.0, f64::NAN),
            oblique_share: f64::NAN,
            orientation: Some(Orientation::RAS),
            seed: 1,
        };
        let (volume, _) = generate(3, &options);
        for spacing in volume.grid.spacing_mm() {
            assert!((0.699..12.001).contains(&spacing), "{spacing}");
        }
    }
}
