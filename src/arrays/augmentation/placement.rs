//! Where in a slice the pixels of a patch come from: one affine map, one resampling.

use std::borrow::Cow;

use ndarray::{ArrayView2, ArrayViewMut2, s};

/// Position in the slice = `centre` + `matrix` · (position in the patch − `pivot`); positions are (y, x)
/// in pixels, 0 is the centre of the first one.
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

    /// Calls `fill(index + 1 along y, index + 1 along x, share of the next row, share of the next column)`
    /// for the pixel of the slice at or before each position of the patch, and `None` further than a pixel
    /// outside. Positions are shifted by `shift` first.
    fn each_pixel<T>(
        &self,
        shape: (usize, usize),
        shift: f64,
        mut into: ArrayViewMut2<T>,
        outside: T,
        mut fill: impl FnMut(usize, usize, f64, f64) -> T,
    ) where
        T: Copy,
    {
        let limit = [shape.0 as f64 + 1.0, shape.1 as f64 + 1.0];
        let step = [self.matrix[0][1], self.matrix[1][1]];
        for (row, mut to) in into.rows_mut().into_iter().enumerate() {
            // One is added so that cutting off decimals rounds down; indices of the slice start at 1.
            let [y, x] = self.row_start(row).map(|at| at + shift + 1.0);
            for (column, to) in to.iter_mut().enumerate() {
                let column = column as f64;
                let (y, x) = (y + step[0] * column, x + step[1] * column);
                *to = if y >= 0.0 && y < limit[0] && x >= 0.0 && x < limit[1] {
                    let (iy, ix) = (y as i32, x as i32);
                    fill(
                        iy as usize,
                        ix as usize,
                        y - f64::from(iy),
                        x - f64::from(ix),
                    )
                } else {
                    outside
                };
            }
        }
    }

    /// Copies where nothing is turned; false where something is.
    fn copied<T: Copy>(&self, plane: ArrayView2<T>, into: &mut ArrayViewMut2<T>, zero: T) -> bool {
        let corner = self.row_start(0);
        let whole = corner.iter().all(|v| *v >= 0.0 && v.fract() == 0.0);
        if self.matrix != [[1.0, 0.0], [0.0, 1.0]] || !whole {
            return false;
        }
        into.fill(zero);
        let [y, x] = corner.map(|v| v as usize);
        let rows = plane.dim().0.saturating_sub(y).min(into.dim().0);
        let columns = plane.dim().1.saturating_sub(x).min(into.dim().1);
        if rows > 0 && columns > 0 {
            into.slice_mut(s![..rows, ..columns])
                .assign(&plane.slice(s![y..y + rows, x..x + columns]));
        }
        true
    }

    /// The patch by linear interpolation; outside the slice is 0 (as `scipy.ndimage.affine_transform`,
    /// order 1, mode `grid-constant`).
    ///
    /// # Shapes
    /// - `plane`: (y, x) of the slice; `into`: (y, x) of the patch
    pub fn sample_linear(&self, plane: ArrayView2<f32>, mut into: ArrayViewMut2<f32>) {
        if self.copied(plane, &mut into, 0.0) {
            return;
        }
        let shape @ (height, width) = plane.dim();
        let values = contiguous(&plane);
        let values = values.as_ref();
        let at = |y: usize, x: usize| {
            if (1..=height).contains(&y) && (1..=width).contains(&x) {
                values[(y - 1) * width + x - 1]
            } else {
                0.0
            }
        };
        self.each_pixel(shape, 0.0, into, 0.0, |y, x, below, right| {
            let (below, right) = (below as f32, right as f32);
            let [a, b, c, d] = if y >= 1 && y < height && x >= 1 && x < width {
                let first = (y - 1) * width + x - 1;
                let (top, bottom) = (
                    &values[first..first + 2],
                    &values[first + width..first + width + 2],
                );
                [top[0], top[1], bottom[0], bottom[1]]
            } else {
                [at(y, x), at(y, x + 1), at(y + 1, x), at(y + 1, x + 1)]
            };
            let (top, bottom) = (a + right * (b - a), c + right * (d - c));
            top + below * (bottom - top)
        });
    }

    /// The patch from the nearest pixels; outside the slice is 0 (order 0).
    ///
    /// # Shapes
    /// - `plane`: (y, x) of the slice; `into`: (y, x) of the patch
    pub fn sample_nearest(&self, plane: ArrayView2<u16>, mut into: ArrayViewMut2<u16>) {
        if self.copied(plane, &mut into, 0) {
            return;
        }
        let shape @ (height, width) = plane.dim();
        let values = contiguous(&plane);
        let values = values.as_ref();
        self.each_pixel(shape, 0.5, into, 0, |y, x, _, _| {
            if (1..=height).contains(&y) && (1..=width).contains(&x) {
                values[(y - 1) * width + x - 1]
            } else {
                0
            }
        });
    }
}

/// The values row by row, borrowed where they lie so.
fn contiguous<'a, T: Copy>(plane: &'a ArrayView2<T>) -> Cow<'a, [T]> {
    match plane.as_slice() {
        Some(values) => Cow::Borrowed(values),
        None => Cow::Owned(plane.iter().copied().collect()),
    }
}
