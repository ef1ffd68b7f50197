//! Elastic deformation: a smooth random displacement of every position of a patch.

use rand::Rng;

use ctseg_image::preprocess::random_normal::standard_normal;

/// Displacements of a patch's voxels as a cubic B-spline of random control points (Rueckert et al., IEEE TMI 1999).
/// With control points √3 sigma apart, a B-spline is as wide as a Gaussian of that sigma, so the field equals
/// Gaussian-smoothed white noise (Simard et al., ICDAR 2003) at a fraction of the cost.
#[derive(Debug, Clone, PartialEq)]
pub struct DisplacementField {
    /// Weights along z, y, x.
    axes: [AxisWeights; 3],
    /// Per displaced axis (y, x for slices; z, y, x for volumes), the control points (z, y, x), in voxels.
    points: Vec<Vec<f32>>,
}

/// The B-spline weights along one axis of a patch.
#[derive(Debug, Clone, PartialEq)]
struct AxisWeights {
    points: usize,
    /// Per voxel, the first of its four control points and the weights of the four.
    voxels: Vec<(usize, [f32; 4])>,
}

impl AxisWeights {
    /// `length` voxels with control points `distance` voxels apart, the second one at the first voxel.
    fn new(length: usize, distance: f64) -> Self {
        let voxels: Vec<(usize, [f32; 4])> = (0..length)
            .map(|voxel| {
                let at = voxel as f64 / distance;
                (at as usize, b_spline(at.fract()).map(|w| w as f32))
            })
            .collect();
        Self {
            points: voxels.last().map_or(0, |last| last.0) + 4,
            voxels,
        }
    }

    /// An axis without displacement.
    fn flat() -> Self {
        Self {
            points: 1,
            voxels: vec![(0, [1.0, 0.0, 0.0, 0.0])],
        }
    }
}

/// Weights of the four control points around a position, `share` of the way from the second to the third.
fn b_spline(share: f64) -> [f64; 4] {
    let (t, rest) = (share, 1.0 - share);
    [
        rest.powi(3) / 6.0,
        2.0 / 3.0 - t * t + t.powi(3) / 2.0,
        2.0 / 3.0 - rest * rest + rest.powi(3) / 2.0,
        t.powi(3) / 6.0,
    ]
}

impl DisplacementField {
    /// A field for a patch of `size` (y, x) or (z, y, x) from its control points. Along an axis they are `distance`
    /// voxels apart; the second one is at the patch's first voxel, and they extend two beyond its last.
    ///
    /// Returns `None` unless each axis has [`DisplacementField::control_point_count`] points for its length and
    /// distance.
    pub fn new<const D: usize>(
        size: [usize; D],
        distance: [f64; D],
        points: Vec<Vec<f32>>,
    ) -> Option<Self> {
        let axes = Self::axes(size, distance);
        let count: usize = axes.iter().map(|axis| axis.points).product();
        let fits = points.len() == D && points.iter().all(|all| all.len() == count);
        fits.then_some(Self { axes, points })
    }

    /// Number of control points for an axis of `length` voxels.
    pub fn control_point_count(length: usize, distance: f64) -> usize {
        AxisWeights::new(length, distance).points
    }

    /// Random control points for a patch of `size` voxels of `spacing_mm`. The displacements are as smooth as noise
    /// filtered with a Gaussian of `sigma_mm`; the largest along each axis is `magnitude_mm`.
    pub(super) fn drawn<const D: usize>(
        size: [usize; D],
        spacing_mm: [f64; D],
        [sigma_mm, magnitude_mm]: [f64; 2],
        rng: &mut impl Rng,
    ) -> Self {
        // Control points denser than the voxels would cost more without any effect.
        let distance = spacing_mm.map(|mm| (3f64.sqrt() * sigma_mm / mm).max(1.0));
        let axes = Self::axes(size, distance);
        let count = axes.iter().map(|axis| axis.points).product();
        let points = (0..D)
            .map(|_| {
                standard_normal(rng, count)
                    .iter()
                    .map(|v| *v as f32)
                    .collect()
            })
            .collect();
        let mut field = Self { axes, points };
        let largest = field.largest(distance.map(|voxels| (voxels / 4.0).max(1.0) as usize));
        for (axis, points) in field.points.iter_mut().enumerate() {
            let factor = magnitude_mm / spacing_mm[axis] / f64::from(largest[axis].max(1e-6));
            points.iter_mut().for_each(|v| *v *= factor as f32);
        }
        field
    }

    fn axes<const D: usize>(size: [usize; D], distance: [f64; D]) -> [AxisWeights; 3] {
        let skipped = 3 - D;
        std::array::from_fn(|axis| match axis.checked_sub(skipped) {
            Some(axis) => AxisWeights::new(size[axis], distance[axis]),
            None => AxisWeights::flat(),
        })
    }

    /// The largest displacement along each axis, from rows sampled at `steps`.
    fn largest<const D: usize>(&self, steps: [usize; D]) -> Vec<f32> {
        let step = |axis: usize| axis.checked_sub(3 - D).map_or(1, |axis| steps[axis]);
        let [depth, height, _] = self.axes.each_ref().map(|axis| axis.voxels.len());
        let mut largest = vec![0f32; D];
        let mut rows = FieldRow::default();
        let some =
            |length: usize, step: usize| (0..length).step_by(step).chain(length.checked_sub(1));
        for z in some(depth, step(0)) {
            for y in some(height, step(1)) {
                self.row(z, y, &mut rows);
                for (largest, row) in largest.iter_mut().zip(&rows.moves) {
                    *largest = row.iter().fold(*largest, |most, v| most.max(v.abs()));
                }
            }
        }
        largest
    }

    /// The displacements of one row of the patch along each displaced axis, in voxels.
    pub(super) fn row(&self, z: usize, y: usize, into: &mut FieldRow) {
        let [along_z, along_y, along_x] = &self.axes;
        let (Some((first_z, weights_z)), Some((first_y, weights_y))) =
            (along_z.voxels.get(z), along_y.voxels.get(y))
        else {
            return;
        };
        into.moves.resize(self.points.len(), Vec::new());
        for (points, row) in self.points.iter().zip(&mut into.moves) {
            // First combine the control points of this row, then evaluate its voxels.
            into.points.clear();
            into.points.resize(along_x.points, 0.0);
            for (k, weight_z) in (*first_z..along_z.points).zip(weights_z) {
                for (j, weight_y) in (*first_y..along_y.points).zip(weights_y) {
                    let from = (k * along_y.points + j) * along_x.points;
                    let weight = weight_z * weight_y;
                    for (to, from) in into.points.iter_mut().zip(&points[from..]) {
                        *to += weight * from;
                    }
                }
            }
            row.clear();
            row.extend(along_x.voxels.iter().map(|(first, weights)| {
                let four = &into.points[*first..*first + 4];
                four.iter().zip(weights).map(|(a, b)| a * b).sum::<f32>()
            }));
        }
    }
}

/// The displacements of one row, with a work buffer.
#[derive(Default)]
pub(super) struct FieldRow {
    /// Per displaced axis, one value per voxel.
    pub moves: Vec<Vec<f32>>,
    points: Vec<f32>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn one_control_point_is_as_wide_as_its_gaussian() {
        let (length, sigma_px) = (200, 7.0);
        let distance = 3f64.sqrt() * sigma_px;
        let count = DisplacementField::control_point_count(length, distance);
        let mut points = vec![vec![0f32; count * 4]; 2];
        points[1][count + count / 2] = 1.0; // the control points' second row lies at the first row
        let field = DisplacementField::new([1, length], [1.0, distance], points).unwrap();
        let mut row = FieldRow::default();
        field.row(0, 0, &mut row);
        assert!(row.moves[0].iter().all(|v| *v == 0.0));
        let weights: Vec<f64> = row.moves[1].iter().map(|v| f64::from(*v)).collect();
        let sum: f64 = weights.iter().sum();
        let moment = |of: &dyn Fn(f64) -> f64| {
            let each = weights.iter().enumerate();
            each.map(|(x, w)| w * of(x as f64)).sum::<f64>() / sum
        };
        let mean = moment(&|x| x);
        let sd = moment(&|x| (x - mean).powi(2)).sqrt();
        assert!((sd - sigma_px).abs() < 0.01, "{sd}");
    }

    #[test]
    fn the_largest_displacement_is_the_requested_one() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        for _ in 0..10 {
            let field =
                DisplacementField::drawn([20, 30, 40], [2.5, 1.0, 2.0], [8.0, 5.0], &mut rng);
            let mut row = FieldRow::default();
            let mut most = [0f32; 3];
            for (z, y) in (0..20).flat_map(|z| (0..30).map(move |y| (z, y))) {
                field.row(z, y, &mut row);
                for (most, moves) in most.iter_mut().zip(&row.moves) {
                    *most = moves.iter().fold(*most, |most, v| most.max(v.abs()));
                }
            }
            let in_mm = [most[0] * 2.5, most[1], most[2] * 2.0];
            assert!(
                in_mm.iter().all(|mm| (4.999..5.25).contains(mm)),
                "{in_mm:?}"
            );
        }
    }
}
