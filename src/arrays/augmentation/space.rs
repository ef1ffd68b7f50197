//! Where in a volume the voxels of a patch come from: one affine map, one resampling.

use ndarray::{ArrayView3, ArrayView4, ArrayViewMut3, ArrayViewMut4, Axis, Slice};

/// Turns, a zoom and mirrored axes, about the middle of a patch. Axes are (z, y, x).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpaceTurn {
    /// About each axis, one after the other beginning with x; about z as in a slice, see
    /// [`super::Turn::degrees`].
    pub degrees: [f64; 3],
    /// Above 1 structures grow.
    pub scale: f64,
    pub flip: [bool; 3],
}

/// Position in the volume = `centre` + `matrix` · (position in the patch − `pivot`); positions are
/// (z, y, x) in voxels, 0 is the centre of the first one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpacePlacement {
    pub matrix: [[f64; 3]; 3],
    pub centre: [f64; 3],
    pub pivot: [f64; 3],
}

impl SpaceTurn {
    pub const NONE: Self = Self {
        degrees: [0.0; 3],
        scale: 1.0,
        flip: [false; 3],
    };

    /// From steps in the patch to steps in the volume, both in voxels of `spacing_mm` (z, y, x). The turns
    /// are ones in millimetres.
    pub fn matrix(&self, spacing_mm: [f64; 3]) -> [[f64; 3]; 3] {
        let [about_z, about_y, about_x] = self.degrees;
        let mut in_mm = turned([1, 2], about_z);
        in_mm = product(in_mm, turned([0, 2], about_y));
        in_mm = product(in_mm, turned([0, 1], about_x));
        let sign = self.flip.map(|flipped| if flipped { -1.0 } else { 1.0 });
        std::array::from_fn(|to| {
            std::array::from_fn(|from| {
                in_mm[to][from] * sign[from] * (spacing_mm[from] / spacing_mm[to]) / self.scale
            })
        })
    }
}

/// A turn in the plane of two axes.
fn turned([first, second]: [usize; 2], degrees: f64) -> [[f64; 3]; 3] {
    let (sin, cos) = degrees.to_radians().sin_cos();
    let mut matrix = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    matrix[first][first] = cos;
    matrix[first][second] = sin;
    matrix[second][first] = -sin;
    matrix[second][second] = cos;
    matrix
}

fn product(a: [[f64; 3]; 3], b: [[f64; 3]; 3]) -> [[f64; 3]; 3] {
    std::array::from_fn(|row| {
        std::array::from_fn(|column| (0..3).map(|k| a[row][k] * b[k][column]).sum())
    })
}

impl SpacePlacement {
    /// The part of the volume that begins at `corner` and has `size`, turned about its middle.
    pub fn new(
        corner: [usize; 3],
        size: [usize; 3],
        turn: &SpaceTurn,
        spacing_mm: [f64; 3],
    ) -> Self {
        let pivot = size.map(|n| (n as f64 - 1.0) / 2.0);
        Self {
            matrix: turn.matrix(spacing_mm),
            centre: std::array::from_fn(|axis| corner[axis] as f64 + pivot[axis]),
            pivot,
        }
    }

    /// Position in the volume of the patch's first voxel in a row.
    fn row_start(&self, z: usize, y: usize) -> [f64; 3] {
        let away = [
            z as f64 - self.pivot[0],
            y as f64 - self.pivot[1],
            -self.pivot[2],
        ];
        std::array::from_fn(|axis| {
            let turned: f64 = (0..3).map(|k| self.matrix[axis][k] * away[k]).sum();
            self.centre[axis] + turned
        })
    }

    /// The first voxel where nothing is turned; none where something is.
    fn unturned(&self) -> Option<[usize; 3]> {
        let first = self.row_start(0, 0);
        let straight = self.matrix == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
        let whole = first.iter().all(|v| *v >= 0.0 && v.fract() == 0.0);
        (straight && whole).then(|| first.map(|v| v as usize))
    }

    /// The patch by trilinear interpolation, every channel alike; outside the volume is 0 (as
    /// `scipy.ndimage.affine_transform`, order 1, mode `grid-constant`).
    ///
    /// # Shapes
    /// - `volume`: (channel, z, y, x); `into`: (channel, z, y, x) of the patch
    pub fn sample_linear(&self, volume: ArrayView4<f32>, mut into: ArrayViewMut4<f32>) {
        if let Some(first) = self.unturned() {
            into.fill(0.0);
            for (from, to) in volume.outer_iter().zip(into.outer_iter_mut()) {
                copy(from, first, to);
            }
            return;
        }
        let (_, depth, height, width) = volume.dim();
        let step = [self.matrix[0][2], self.matrix[1][2], self.matrix[2][2]];
        for (z, mut planes) in into.axis_iter_mut(Axis(1)).enumerate() {
            for (y, mut rows) in planes.axis_iter_mut(Axis(1)).enumerate() {
                let start = self.row_start(z, y);
                for x in 0..rows.len_of(Axis(1)) {
                    let at = std::array::from_fn(|axis| start[axis] + step[axis] * x as f64);
                    let around = Around::new(at, [depth, height, width]);
                    for (channel, to) in rows.index_axis_mut(Axis(1), x).iter_mut().enumerate() {
                        let from = volume.index_axis(Axis(0), channel);
                        *to = around.as_ref().map_or(0.0, |around| around.value(&from));
                    }
                }
            }
        }
    }

    /// The patch from the nearest voxels; outside the volume is 0 (order 0).
    ///
    /// # Shapes
    /// - `volume`: (z, y, x); `into`: (z, y, x) of the patch
    pub fn sample_nearest(&self, volume: ArrayView3<u16>, mut into: ArrayViewMut3<u16>) {
        into.fill(0);
        if let Some(first) = self.unturned() {
            copy(volume, first, into);
            return;
        }
        let (depth, height, width) = volume.dim();
        let ends = [depth, height, width];
        let step = [self.matrix[0][2], self.matrix[1][2], self.matrix[2][2]];
        for (z, mut plane) in into.outer_iter_mut().enumerate() {
            for (y, mut row) in plane.outer_iter_mut().enumerate() {
                let start = self.row_start(z, y);
                for (x, to) in row.iter_mut().enumerate() {
                    let at: [f64; 3] = std::array::from_fn(|axis| {
                        (start[axis] + step[axis] * x as f64 + 0.5).floor()
                    });
                    if (0..3).all(|axis| at[axis] >= 0.0 && at[axis] < ends[axis] as f64) {
                        *to = volume[at.map(|v| v as usize)];
                    }
                }
            }
        }
    }
}

/// Copies what of `from` lies at `first` and on into the start of `to`.
fn copy<T: Copy>(from: ArrayView3<T>, first: [usize; 3], to: ArrayViewMut3<T>) {
    let (mut from, mut to) = (from, to);
    for (axis, first) in first.into_iter().enumerate() {
        let length = from.len_of(Axis(axis));
        let count = length.saturating_sub(first).min(to.len_of(Axis(axis)));
        from.slice_axis_inplace(
            Axis(axis),
            Slice::from(first.min(length)..first.min(length) + count),
        );
        to.slice_axis_inplace(Axis(axis), Slice::from(..count));
    }
    to.assign(&from);
}

/// The eight voxels around a position, those outside left out.
struct Around {
    low: [usize; 3],
    /// Weights of the lower and the upper voxel along each axis; 0 outside.
    weights: [[f32; 2]; 3],
    /// Step to the upper voxel, 0 where there is none.
    step: [usize; 3],
}

impl Around {
    /// None further than a voxel outside.
    fn new(at: [f64; 3], shape: [usize; 3]) -> Option<Self> {
        let mut around = Self {
            low: [0; 3],
            weights: [[0.0; 2]; 3],
            step: [0; 3],
        };
        for axis in 0..3 {
            let (at, length) = (at[axis], shape[axis] as f64);
            if at <= -1.0 || at >= length {
                return None;
            }
            let (floor, share) = (at.floor(), at - at.floor());
            if floor < 0.0 {
                // Only the upper voxel is inside.
                around.weights[axis] = [share as f32, 0.0];
            } else {
                let inside = floor + 1.0 < length;
                around.low[axis] = floor as usize;
                around.step[axis] = usize::from(inside);
                around.weights[axis] =
                    [1.0 - share as f32, if inside { share as f32 } else { 0.0 }];
            }
        }
        Some(around)
    }

    fn value(&self, volume: &ArrayView3<f32>) -> f32 {
        let ([z, y, x], [dz, dy, dx]) = (self.low, self.step);
        let [wz, wy, wx] = self.weights;
        let row = |z: usize, y: usize| volume[[z, y, x]] * wx[0] + volume[[z, y, x + dx]] * wx[1];
        let plane = |z: usize| row(z, y) * wy[0] + row(z, y + dy) * wy[1];
        plane(z) * wz[0] + plane(z + dz) * wz[1]
    }
}
