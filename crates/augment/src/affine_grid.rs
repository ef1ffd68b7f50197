//! Sampling positions of a patch in a slice: an affine map and a displacement field, applied in one resampling.

use std::borrow::Cow;

use ndarray::{ArrayView2, ArrayViewMut2};

use crate::elastic::{DisplacementField, FieldRow};
use crate::interpolation::{Taps, copy};

/// Position in the slice = `centre` + `matrix` · (position in the patch + displacement − `pivot`). Positions are (y,
/// x) in pixels; 0 is the centre of the first pixel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AffineGrid {
    pub matrix: [[f64; 2]; 2],
    pub centre: [f64; 2],
    pub pivot: [f64; 2],
}

/// Rotation, scaling and flips about the centre of a patch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AffineParams {
    /// Counter-clockwise in an image whose y points down (as `scipy.ndimage.rotate` and `numpy.rot90`).
    pub degrees: f64,
    /// Above 1, structures grow.
    pub scale: f64,
    /// Flipped axes (y, x).
    pub flip: [bool; 2],
}

impl AffineParams {
    pub const NONE: Self = Self {
        degrees: 0.0,
        scale: 1.0,
        flip: [false; 2],
    };

    /// Maps steps in the patch to steps in the slice, both (y, x) in pixels of `spacing_mm` (y, x). The rotation is
    /// done in millimetres: with anisotropic spacing a circle stays a circle.
    pub fn matrix(&self, spacing_mm: [f64; 2]) -> [[f64; 2]; 2] {
        let (sin, cos) = self.degrees.to_radians().sin_cos();
        let in_mm = [[cos, sin], [-sin, cos]];
        let sign = self.flip.map(|flipped| if flipped { -1.0 } else { 1.0 });
        std::array::from_fn(|to| {
            std::array::from_fn(|from| {
                in_mm[to][from] * sign[from] * (spacing_mm[from] / spacing_mm[to]) / self.scale
            })
        })
    }
}

impl AffineGrid {
    /// The part of the slice that starts at `corner` (row, column) and has `size`, transformed about its centre.
    pub fn new(
        corner: [usize; 2],
        size: [usize; 2],
        affine: &AffineParams,
        spacing_mm: [f64; 2],
    ) -> Self {
        let pivot = size.map(|n| (n as f64 - 1.0) / 2.0);
        Self {
            matrix: affine.matrix(spacing_mm),
            centre: [corner[0] as f64 + pivot[0], corner[1] as f64 + pivot[1]],
            pivot,
        }
    }

    /// Position in the slice of the first pixel of the patch's `row`.
    fn row_start(&self, row: usize) -> [f64; 2] {
        let away = [row as f64 - self.pivot[0], -self.pivot[1]];
        std::array::from_fn(|axis| {
            self.centre[axis] + self.matrix[axis][0] * away[0] + self.matrix[axis][1] * away[1]
        })
    }

    /// Calls `on_row` for each row of a patch, with its positions in a slice of `shape`.
    fn each_row(
        &self,
        field: Option<&DisplacementField>,
        shape: (usize, usize),
        (rows, columns): (usize, usize),
        mut on_row: impl FnMut(usize, &Taps<2>),
    ) {
        let mut taps = Taps::new([shape.0, shape.1], columns);
        let mut moved = FieldRow::default();
        let step = self.matrix.map(|[_, along]| along);
        for row in 0..rows {
            taps.place(self.row_start(row), step);
            if let Some(field) = field {
                field.row(0, row, &mut moved);
                taps.move_by(&moved.moves, self.matrix);
            }
            taps.find();
            on_row(row, &taps);
        }
    }

    /// The first pixel and the flipped axes, if the transform is only a crop with flips; else `None`.
    fn straight(&self) -> Option<([f64; 2], [bool; 2])> {
        let [[y, yx], [xy, x]] = self.matrix;
        let start = self.row_start(0);
        let whole = start.iter().all(|v| *v >= 0.0 && v.fract() == 0.0);
        (y.abs() == 1.0 && x.abs() == 1.0 && yx == 0.0 && xy == 0.0 && whole)
            .then_some((start, [y < 0.0, x < 0.0]))
    }

    /// Samples image planes by linear interpolation and labels by nearest neighbour (orders 1 and 0); 0 outside the
    /// slice (as `scipy.ndimage.map_coordinates`, mode `grid-constant`). Positions are computed once for all of them.
    ///
    /// # Shapes
    /// - `planes`: pairs of slice (y, x) and patch (y, x); `labels`: the same
    pub fn sample(
        &self,
        field: Option<&DisplacementField>,
        planes: Vec<(ArrayView2<f32>, ArrayViewMut2<f32>)>,
        (labels, mut patch_labels): (ArrayView2<u16>, ArrayViewMut2<u16>),
    ) {
        if let (Some(from), None) = (self.straight(), field) {
            for (plane, into) in planes {
                copy(plane, from, into, 0.0);
            }
            copy(labels, from, patch_labels, 0);
            return;
        }
        let (sources, mut patches): (Vec<_>, Vec<_>) = planes.into_iter().unzip();
        let sources: Vec<Cow<[f32]>> = sources.iter().map(contiguous).collect();
        let label_values = contiguous(&labels);
        self.each_row(field, labels.dim(), patch_labels.dim(), |row, taps| {
            taps.nearest(&label_values, patch_labels.row_mut(row).iter_mut());
            for (values, patch) in sources.iter().zip(&mut patches) {
                taps.linear(values, patch.row_mut(row).iter_mut());
            }
        });
    }
}

/// The values row by row, borrowed if they are contiguous.
fn contiguous<'a, T: Copy>(plane: &'a ArrayView2<T>) -> Cow<'a, [T]> {
    match plane.as_slice() {
        Some(values) => Cow::Borrowed(values),
        None => Cow::Owned(plane.iter().copied().collect()),
    }
}
