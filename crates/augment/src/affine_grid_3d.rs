//! Sampling positions of a patch in a volume: an affine map and a displacement field, applied in one resampling.

use std::borrow::Cow;

use ndarray::{ArrayView3, ArrayViewMut3, s};

use crate::elastic::{DisplacementField, FieldRow};
use crate::interpolation::{Taps, copy};

/// Rotations, scaling and flips about the centre of a patch. Axes are (z, y, x).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AffineParams3d {
    /// About each axis, applied in the order x, y, z; about z as in a slice, see [`super::AffineParams::degrees`].
    pub degrees: [f64; 3],
    /// Above 1, structures grow.
    pub scale: f64,
    pub flip: [bool; 3],
}

/// Position in the volume = `centre` + `matrix` · (position in the patch + displacement − `pivot`). Positions are (z,
/// y, x) in voxels; 0 is the centre of the first voxel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AffineGrid3d {
    pub matrix: [[f64; 3]; 3],
    pub centre: [f64; 3],
    pub pivot: [f64; 3],
}

impl AffineParams3d {
    pub const NONE: Self = Self {
        degrees: [0.0; 3],
        scale: 1.0,
        flip: [false; 3],
    };

    /// Maps steps in the patch to steps in the volume, both in voxels of `spacing_mm` (z, y, x). Rotations are done
    /// in millimetres.
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

/// A rotation in the plane of two axes.
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

impl AffineGrid3d {
    /// The part of the volume that starts at `corner` and has `size`, transformed about its centre.
    pub fn new(
        corner: [usize; 3],
        size: [usize; 3],
        affine: &AffineParams3d,
        spacing_mm: [f64; 3],
    ) -> Self {
        let pivot = size.map(|n| (n as f64 - 1.0) / 2.0);
        Self {
            matrix: affine.matrix(spacing_mm),
            centre: std::array::from_fn(|axis| corner[axis] as f64 + pivot[axis]),
            pivot,
        }
    }

    /// Position in the volume of the first voxel of a row of the patch.
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

    /// The first voxel and the flipped axes, if the transform is only a crop with flips; else `None`.
    fn straight(&self) -> Option<([f64; 3], [bool; 3])> {
        let start = self.row_start(0, 0);
        let whole = start.iter().all(|v| *v >= 0.0 && v.fract() == 0.0);
        let is_axis = |row: usize, column: usize| match row == column {
            true => self.matrix[row][column].abs() == 1.0,
            false => self.matrix[row][column] == 0.0,
        };
        let unturned = (0..9).all(|index| is_axis(index / 3, index % 3));
        let reversed = std::array::from_fn(|axis| self.matrix[axis][axis] < 0.0);
        (unturned && whole).then_some((start, reversed))
    }

    /// Calls `on_row` for each row (z, y) of a patch, with its positions in a volume of `shape`.
    fn each_row(
        &self,
        field: Option<&DisplacementField>,
        shape: (usize, usize, usize),
        (depth, rows, columns): (usize, usize, usize),
        mut on_row: impl FnMut([usize; 2], &Taps<3>),
    ) {
        let mut taps = Taps::new([shape.0, shape.1, shape.2], columns);
        let mut moved = FieldRow::default();
        let step = self.matrix.map(|[_, _, along]| along);
        for (z, y) in (0..depth).flat_map(|z| (0..rows).map(move |y| (z, y))) {
            taps.place(self.row_start(z, y), step);
            if let Some(field) = field {
                field.row(z, y, &mut moved);
                taps.move_by(&moved.moves, self.matrix);
            }
            taps.find();
            on_row([z, y], &taps);
        }
    }

    /// Samples image channels by trilinear interpolation and labels by nearest neighbour (orders 1 and 0); 0 outside
    /// the volume (as `scipy.ndimage.map_coordinates`, mode `grid-constant`). Positions are computed once for all of
    /// them.
    ///
    /// # Shapes
    /// - `channels`: pairs of volume (z, y, x) and patch (z, y, x); `labels`: the same
    pub fn sample(
        &self,
        field: Option<&DisplacementField>,
        channels: Vec<(ArrayView3<f32>, ArrayViewMut3<f32>)>,
        (labels, mut patch_labels): (ArrayView3<u16>, ArrayViewMut3<u16>),
    ) {
        if let (Some(from), None) = (self.straight(), field) {
            for (channel, into) in channels {
                copy(channel, from, into, 0.0);
            }
            copy(labels, from, patch_labels, 0);
            return;
        }
        let (sources, mut patches): (Vec<_>, Vec<_>) = channels.into_iter().unzip();
        let sources: Vec<Cow<[f32]>> = sources.iter().map(contiguous).collect();
        let label_values = contiguous(&labels);
        self.each_row(field, labels.dim(), patch_labels.dim(), |[z, y], taps| {
            taps.nearest(
                &label_values,
                patch_labels.slice_mut(s![z, y, ..]).iter_mut(),
            );
            for (values, patch) in sources.iter().zip(&mut patches) {
                taps.linear(values, patch.slice_mut(s![z, y, ..]).iter_mut());
            }
        });
    }
}

/// The values row by row, borrowed if they are contiguous.
fn contiguous<'a, T: Copy>(volume: &'a ArrayView3<T>) -> Cow<'a, [T]> {
    match volume.as_slice() {
        Some(values) => Cow::Borrowed(values),
        None => Cow::Owned(volume.iter().copied().collect()),
    }
}
