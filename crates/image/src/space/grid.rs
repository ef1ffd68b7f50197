//! A grid is a shape and an affine; every geometric operation maps a grid to a grid.

// Indices are axes here, and most loops index several matrices.
#![allow(clippy::needless_range_loop)]

use super::affine::{Affine, apply, column, determinant, inverse, nearest_rotation};
use super::orientation::Orientation;
use super::reorientation::Reorientation;
use super::voxel_box::VoxelBox;

/// Where the voxels of a volume lie: `shape` in (x, y, z) order, and the affine that maps a voxel index (i, j, k), at
/// the voxel's centre, to world coordinates in mm (RAS+, as in nibabel).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    /// Number of voxels along x, y, z.
    pub shape: [usize; 3],
    /// Voxel index (i, j, k) to world coordinates in mm, RAS+.
    pub affine: Affine,
}

/// One axis of a [`GridMap`]: source index = `scale` · target index + `offset` along source axis `axis`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AxisMap {
    /// The parallel source axis: 0 = x, 1 = y, 2 = z.
    pub axis: usize,
    /// Source voxels per target voxel; negative if the axes point in opposite directions.
    pub scale: f64,
    /// Source index of the target's first voxel.
    pub offset: f64,
}

/// For each axis of a target grid (x, y, z), the parallel source axis and the mapping of indices.
pub type GridMap = [AxisMap; 3];

impl Grid {
    /// A grid in RAS orientation with the centre of its first voxel at the world origin.
    pub fn with_spacing(shape: [usize; 3], spacing_mm: [f64; 3]) -> Self {
        let mut affine = [[0.0; 4]; 3];
        for axis in 0..3 {
            affine[axis][axis] = spacing_mm[axis];
        }
        Self { shape, affine }
    }

    /// The shape of this grid's array: (z, y, x).
    pub fn shape_zyx(&self) -> [usize; 3] {
        [self.shape[2], self.shape[1], self.shape[0]]
    }

    /// The number of voxels; saturates at `usize::MAX`.
    pub fn voxels(&self) -> usize {
        self.shape.into_iter().fold(1, usize::saturating_mul)
    }

    /// Voxel spacing along x, y, z in mm.
    pub fn spacing_mm(&self) -> [f64; 3] {
        std::array::from_fn(|axis| {
            column(&self.affine, axis)
                .iter()
                .map(|v| v * v)
                .sum::<f64>()
                .sqrt()
        })
    }

    /// Volume of one voxel in mL.
    pub fn voxel_volume_ml(&self) -> f64 {
        determinant(&self.affine).abs() / 1000.0
    }

    /// World position in mm of a (fractional) voxel index (i, j, k).
    pub fn world_mm(&self, voxel: [f64; 3]) -> [f64; 3] {
        apply(&self.affine, voxel)
    }

    /// Whether the affine is invertible, that is, the voxels span a volume.
    pub fn is_invertible(&self) -> bool {
        let scale: f64 = self.spacing_mm().iter().product();
        scale.is_finite() && determinant(&self.affine).abs() > 1e-6 * scale && scale > 0.0
    }

    /// Whether the voxel axes are orthogonal (the cosine of every angle is below `tolerance`).
    pub fn is_orthogonal(&self, tolerance: f64) -> bool {
        self.largest_cosine() < tolerance
    }

    /// Whether ITK and programs based on it refuse the grid because its axes are not orthogonal.
    pub fn is_skewed(&self) -> bool {
        !self.is_orthogonal(1e-4)
    }

    /// The largest absolute cosine of the angles between voxel axes.
    pub fn largest_cosine(&self) -> f64 {
        let spacing = self.spacing_mm();
        let cosine = |(a, b): (usize, usize)| {
            let (u, v) = (column(&self.affine, a), column(&self.affine, b));
            let dot: f64 = (0..3).map(|i| u[i] * v[i]).sum();
            (dot / (spacing[a] * spacing[b])).abs()
        };
        largest([(0, 1), (0, 2), (1, 2)].into_iter().map(cosine))
    }

    /// The closest axis-aligned orientation, as nibabel's `io_orientation`: from the rotation nearest to the affine
    /// (its polar factor), strongest axis first.
    pub fn orientation(&self) -> Orientation {
        let rotation = nearest_rotation(&self.affine);
        let mut order = [0, 1, 2];
        let strength = |axis: usize| {
            (0..3)
                .map(|row| rotation[row][axis].powi(2))
                .fold(0.0, f64::max)
        };
        order.sort_by(|a, b| strength(*b).total_cmp(&strength(*a)));
        let mut taken = [false; 3];
        let mut orientation = Orientation::RAS;
        for axis in order {
            let world = (0..3)
                .filter(|row| !taken[*row])
                .max_by(|a, b| {
                    rotation[*a][axis]
                        .abs()
                        .total_cmp(&rotation[*b][axis].abs())
                })
                .unwrap_or(axis);
            taken[world] = true;
            orientation.axes[axis] = world;
            orientation.flipped[axis] = rotation[world][axis] < 0.0;
        }
        orientation
    }

    /// The same voxels in another order: axes are permuted and flipped to match `target`. World positions do not
    /// change.
    pub fn reoriented(&self, target: Orientation) -> Self {
        self.reoriented_by(&Reorientation::between(self.orientation(), target))
    }

    /// The grid of an array after [`Reorientation::apply`]. World positions do not change.
    pub fn reoriented_by(&self, reorientation: &Reorientation) -> Self {
        let mut affine = self.affine;
        for axis in 0..3 {
            let from = reorientation.from[axis];
            for row in 0..3 {
                let step = self.affine[row][from];
                affine[row][axis] = if reorientation.reversed[axis] {
                    -step
                } else {
                    step
                };
                if reorientation.reversed[axis] {
                    affine[row][3] += step * (self.shape[from] as f64 - 1.0);
                }
            }
        }
        Self {
            shape: reorientation.from.map(|axis| self.shape[axis]),
            affine,
        }
    }

    /// The part of the grid inside `region`.
    pub fn cropped(&self, region: &VoxelBox) -> Self {
        self.shifted(region.start.map(|v| v as f64), region.shape())
    }

    /// The grid with voxels added before and after each axis (x, y, z).
    pub fn padded(&self, before: [usize; 3], after: [usize; 3]) -> Self {
        let shape = std::array::from_fn(|axis| self.shape[axis] + before[axis] + after[axis]);
        self.shifted(before.map(|v| -(v as f64)), shape)
    }

    /// The same field of view in voxels of about `spacing_mm`.
    ///
    /// This is the only place that defines the half-voxel convention: the outer faces of the first and last voxels stay
    /// in place (as in scikit-image's `resize`, and therefore nnU-Net), the number of voxels is
    /// `round(old spacing / new spacing · shape)`, at least 1, and the spacing follows from it.
    pub fn respaced(&self, spacing_mm: [f64; 3]) -> Self {
        let own = self.spacing_mm();
        self.resized(std::array::from_fn(|axis| {
            let voxels = (own[axis] / spacing_mm[axis] * self.shape[axis] as f64).round();
            (voxels as usize).max(1)
        }))
    }

    /// The same field of view in `shape` voxels; see [`Grid::respaced`].
    pub fn resized(&self, shape: [usize; 3]) -> Self {
        let mut affine = self.affine;
        for axis in 0..3 {
            let scale = self.shape[axis] as f64 / shape[axis] as f64;
            for row in 0..3 {
                let step = self.affine[row][axis];
                affine[row][axis] = step * scale;
                affine[row][3] += step * (scale - 1.0) / 2.0;
            }
        }
        Self { shape, affine }
    }

    /// The map from voxel indices of this grid to positions in `source`; `None` if the axes of the grids are not
    /// parallel (or a grid is degenerate), so that separable resampling is impossible.
    pub fn map_to(&self, source: &Grid) -> Option<GridMap> {
        const PARALLEL: f64 = 1e-4;
        let inverse = inverse(&source.affine)?;
        let mut map = [AxisMap {
            axis: 0,
            scale: 1.0,
            offset: 0.0,
        }; 3];
        let mut used = [false; 3];
        let offset = apply(&inverse, [0, 1, 2].map(|row| self.affine[row][3]));
        for axis in 0..3 {
            let step = column(&self.affine, axis);
            let step: [f64; 3] =
                std::array::from_fn(|row| (0..3).map(|i| inverse[row][i] * step[i]).sum());
            let along = (0..3).max_by(|a, b| step[*a].abs().total_cmp(&step[*b].abs()))?;
            // Drift along the other axes over the whole grid must stay below a small fraction of a voxel.
            let length = self.shape[axis].max(2) as f64 - 1.0;
            let drift = (0..3)
                .filter(|row| *row != along)
                .map(|row| step[row].abs() * length)
                .fold(0.0, f64::max);
            if used[along] || drift > PARALLEL * length.max(100.0) || !step[along].is_finite() {
                return None;
            }
            used[along] = true;
            map[axis] = AxisMap {
                axis: along,
                scale: snapped(step[along]),
                offset: snapped(offset[along]),
            };
        }
        Some(map)
    }

    fn shifted(&self, by_voxels: [f64; 3], shape: [usize; 3]) -> Self {
        let origin = self.world_mm(by_voxels);
        let mut affine = self.affine;
        for row in 0..3 {
            affine[row][3] = origin[row];
        }
        Self { shape, affine }
    }
}

/// The largest length. Unlike `f64::max`, it propagates NaN, so that a NaN affine matches nothing.
pub(super) fn largest(lengths: impl Iterator<Item = f64>) -> f64 {
    lengths.fold(
        0.0,
        |largest, length| {
            if length <= largest { largest } else { length }
        },
    )
}

/// Removes floating-point noise, so that mapping a grid onto itself copies voxels instead of interpolating.
fn snapped(value: f64) -> f64 {
    let rounded = (value * 2.0).round() / 2.0;
    if (value - rounded).abs() < 1e-6 {
        rounded
    } else {
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn oblique() -> Grid {
        // 20 degrees about z, anisotropic, LPS-like.
        let (sin, cos) = 20f64.to_radians().sin_cos();
        Grid {
            shape: [7, 9, 5],
            affine: [
                [-0.8 * cos, 1.1 * sin, 0.0, 90.0],
                [-0.8 * sin, -1.1 * cos, 0.0, 120.5],
                [0.0, 0.0, 3.0, -700.25],
            ],
        }
    }

    #[test]
    fn orientation_codes_match_the_affine() {
        assert_eq!(oblique().orientation().to_string(), "LPS");
        assert_eq!(
            Grid::with_spacing([2, 2, 2], [1.0; 3]).orientation(),
            Orientation::RAS
        );
    }

    #[test]
    fn all_48_orientations_keep_every_voxel_in_place() {
        let grid = oblique();
        for target in Orientation::all() {
            let turned = grid.reoriented(target);
            assert_eq!(turned.orientation(), target);
            let map = turned.map_to(&grid).expect("parallel");
            for axis in map {
                assert_eq!(axis.scale.abs(), 1.0);
                assert_eq!(
                    axis.offset,
                    if axis.scale < 0.0 {
                        grid.shape[axis.axis] as f64 - 1.0
                    } else {
                        0.0
                    }
                );
            }
            assert!(turned.reoriented(grid.orientation()).same_as(&grid, 1e-9));
        }
        assert_eq!(
            Orientation::all()
                .collect::<std::collections::HashSet<_>>()
                .len(),
            48
        );
    }

    #[test]
    fn respacing_keeps_the_outer_faces() {
        let grid = oblique();
        let fine = grid.respaced([0.4, 0.5, 1.0]);
        assert_eq!(fine.shape, [14, 20, 15]);
        for bits in 0..8 {
            let face = |g: &Grid| {
                g.world_mm(std::array::from_fn(|axis| {
                    if bits >> axis & 1 == 1 {
                        g.shape[axis] as f64 - 0.5
                    } else {
                        -0.5
                    }
                }))
            };
            let (a, b) = (face(&grid), face(&fine));
            assert!((0..3).all(|i| (a[i] - b[i]).abs() < 1e-9));
        }
    }

    #[test]
    fn rotated_grids_have_no_axis_wise_map() {
        assert!(
            oblique()
                .map_to(&Grid::with_spacing([9, 9, 9], [1.0; 3]))
                .is_none()
        );
    }

    proptest! {
        #[test]
        fn padding_undoes_cropping(
            sx in 0usize..3, sy in 0usize..4, sz in 0usize..2,
            ex in 0usize..3, ey in 0usize..4, ez in 0usize..2,
        ) {
            let grid = oblique();
            let region = VoxelBox {
                start: [sx, sy, sz],
                end: [7 - ex, 9 - ey, 5 - ez],
            };
            let back = grid.cropped(&region).padded([sx, sy, sz], [ex, ey, ez]);
            prop_assert!(back.same_as(&grid, 1e-9));
        }

        #[test]
        fn maps_between_respaced_grids_are_inverse(a in 0.3f64..4.0, b in 0.3f64..4.0, c in 0.3f64..6.0) {
            let grid = oblique();
            let other = grid.respaced([a, b, c]);
            let (there, back) = (other.map_to(&grid).unwrap(), grid.map_to(&other).unwrap());
            for axis in 0..3 {
                prop_assert!((there[axis].scale * back[axis].scale - 1.0).abs() < 1e-9);
                let position = there[axis].scale * 1.0 + there[axis].offset;
                prop_assert!((back[axis].scale * position + back[axis].offset - 1.0).abs() < 1e-6);
            }
        }
    }
}
