//! Where in a slice the pixels of a patch come from: one affine map and one displacement, one resampling.

use std::borrow::Cow;

use ndarray::{ArrayView2, ArrayViewMut2, s};

use super::elastic::{Field, FieldRow};
use super::taps::Taps;

/// Position in the slice = `centre` + `matrix` · (position in the patch + displacement − `pivot`); positions
/// are (y, x) in pixels, 0 is the centre of the first one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placement {
    pub matrix: [[f64; 2]; 2],
    pub centre: [f64; 2],
    pub pivot: [f64; 2],
}

/// A turn, a zoom and mirrored axes, about the middle of a patch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Turn {
    /// Counter-clockwise in an image whose y points down (as `scipy.ndimage.rotate` and `numpy.rot90`).
    pub degrees: f64,
    /// Above 1 structures grow.
    pub scale: f64,
    /// Mirrored axes (y, x).
    pub flip: [bool; 2],
}

impl Turn {
    pub const NONE: Self = Self {
        degrees: 0.0,
        scale: 1.0,
        flip: [false; 2],
    };

    /// From steps in the patch to steps in the slice, both (y, x) in pixels of `spacing_mm` (y, x). The
    /// turn is one in millimetres: with unequal spacings a circle stays a circle in the patient.
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

impl Placement {
    /// The part of the slice that begins at `corner` (row, column) and has `size`, turned about its middle.
    pub fn new(corner: [usize; 2], size: [usize; 2], turn: &Turn, spacing_mm: [f64; 2]) -> Self {
        let pivot = size.map(|n| (n as f64 - 1.0) / 2.0);
        Self {
            matrix: turn.matrix(spacing_mm),
            centre: [corner[0] as f64 + pivot[0], corner[1] as f64 + pivot[1]],
            pivot,
        }
    }

    /// Position in the slice of the patch's first pixel in `row`.
    fn row_start(&self, row: usize) -> [f64; 2] {
        let away = [row as f64 - self.pivot[0], -self.pivot[1]];
        std::array::from_fn(|axis| {
            self.centre[axis] + self.matrix[axis][0] * away[0] + self.matrix[axis][1] * away[1]
        })
    }

    /// Calls `on_row` with each row of a patch of `size` and its positions in a slice of `shape`.
    fn each_row(
        &self,
        field: Option<&Field>,
        shape: (usize, usize),
        (rows, columns): (usize, usize),
        mut on_row: impl FnMut(usize, &Taps<2>),
    ) {
        let mut taps = Taps::new([shape.0, shape.1]);
        let mut moved = FieldRow::default();
        let [[yy, yx], [xy, xx]] = self.matrix;
        for row in 0..rows {
            let [y, x] = self.row_start(row);
            let straight = (0..columns).map(|at| [y + yx * at as f64, x + xx * at as f64]);
            match field {
                Some(field) => {
                    field.row(0, row, &mut moved);
                    let [down, along] = moved.moves.as_slice() else {
                        return;
                    };
                    let moves = down.iter().zip(along);
                    taps.place(straight.zip(moves).map(|([y, x], (down, along))| {
                        let (down, along) = (f64::from(*down), f64::from(*along));
                        [y + yy * down + yx * along, x + xy * down + xx * along]
                    }));
                }
                None => taps.place(straight),
            }
            on_row(row, &taps);
        }
    }

    /// The first pixel where nothing is turned; none where something is.
    fn unturned(&self) -> Option<[usize; 2]> {
        let corner = self.row_start(0);
        let whole = corner.iter().all(|v| *v >= 0.0 && v.fract() == 0.0);
        (self.matrix == [[1.0, 0.0], [0.0, 1.0]] && whole).then(|| corner.map(|v| v as usize))
    }

    /// The patches of several planes by linear interpolation, and of the labels from the nearest pixels (orders 1
    /// and 0); outside the slice is 0 (as `scipy.ndimage.map_coordinates`, mode `grid-constant`). Positions are
    /// found once for all of them.
    ///
    /// # Shapes
    /// - `planes`: each (y, x) of the slice with (y, x) of the patch; `labels`: the same
    pub fn sample(
        &self,
        field: Option<&Field>,
        planes: Vec<(ArrayView2<f32>, ArrayViewMut2<f32>)>,
        (labels, mut patch_labels): (ArrayView2<u16>, ArrayViewMut2<u16>),
    ) {
        if let (Some(corner), None) = (self.unturned(), field) {
            for (plane, mut into) in planes {
                copy(plane, corner, &mut into, 0.0);
            }
            copy(labels, corner, &mut patch_labels, 0);
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

/// Copies what of `from` lies at `corner` and on into the start of `into`; the rest becomes `zero`.
fn copy<T: Copy>(from: ArrayView2<T>, [y, x]: [usize; 2], into: &mut ArrayViewMut2<T>, zero: T) {
    into.fill(zero);
    let rows = from.dim().0.saturating_sub(y).min(into.dim().0);
    let columns = from.dim().1.saturating_sub(x).min(into.dim().1);
    if rows > 0 && columns > 0 {
        into.slice_mut(s![..rows, ..columns])
            .assign(&from.slice(s![y..y + rows, x..x + columns]));
    }
}

/// The values row by row, borrowed where they lie so.
fn contiguous<'a, T: Copy>(plane: &'a ArrayView2<T>) -> Cow<'a, [T]> {
    match plane.as_slice() {
        Some(values) => Cow::Borrowed(values),
        None => Cow::Owned(plane.iter().copied().collect()),
    }
}
