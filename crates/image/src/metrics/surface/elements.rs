//! The surface elements of a mask and their areas.

use ndarray::{Array3, ArrayView3, Axis};
use rayon::prelude::*;

use super::normals::NORMALS;

/// A surface element.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Element {
    /// Distance to the nearest element of the other surface; infinite if there is none.
    pub distance_mm: f64,
    pub area_mm2: f64,
}

/// Neighbourhoods without a surface: all voxels outside, all inside.
const ALL_OUTSIDE: u8 = 0;
const ALL_INSIDE: u8 = 255;

/// Whether a surface passes through a neighbourhood with this code.
pub fn is_surface(code: u8) -> bool {
    code != ALL_OUTSIDE && code != ALL_INSIDE
}

/// For every corner of the mask's voxels a code with one bit for each of the eight voxels around it, set if the voxel
/// is inside. Voxels beyond the mask are outside.
///
/// # Shapes
/// `mask`: (z, y, x); output: (z + 1, y + 1, x + 1), where corner (0, 0, 0) precedes voxel (0, 0, 0)
pub fn neighbour_codes(mask: ArrayView3<bool>) -> Array3<u8> {
    let (depth, height, width) = mask.dim();
    let mut codes = Array3::zeros((depth + 1, height + 1, width + 1));
    codes
        .axis_iter_mut(Axis(0))
        .into_par_iter()
        .enumerate()
        .for_each(|(z, mut slice)| {
            for (y, mut row) in slice.rows_mut().into_iter().enumerate() {
                let row = row.as_slice_mut().unwrap_or_default();
                for (after_z, after_y) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                    // Voxels before the corner have the higher bits: x first, then y, then z.
                    let (Some(z), Some(y)) =
                        ((z + after_z).checked_sub(1), (y + after_y).checked_sub(1))
                    else {
                        continue;
                    };
                    if z < depth && y < height {
                        let before_x = 128 >> (2 * after_y + after_z);
                        let inside = mask.index_axis(Axis(0), z);
                        mark(row, inside.index_axis(Axis(0), y).iter(), before_x);
                    }
                }
            }
        });
    codes
}

/// Sets the bits of a row of voxels in the adjacent row of corners: `before_x` for corners after the voxel.
fn mark<'a>(codes: &mut [u8], inside: impl Iterator<Item = &'a bool>, before_x: u8) {
    for (x, inside) in inside.enumerate() {
        let inside = u8::from(*inside);
        codes[x] |= inside * (before_x >> 4);
        codes[x + 1] |= inside * before_x;
    }
}

/// The surface area in mm² of a neighbourhood with each code, for voxels of `spacing_mm` (x, y, z).
pub fn areas_mm2(spacing_mm: [f64; 3]) -> [f64; 256] {
    let [x, y, z] = spacing_mm;
    let faces_mm2 = [y * z, x * z, x * y];
    std::array::from_fn(|code| {
        let area = |normal: &[i8; 3]| -> f64 {
            let squares = (0..3).map(|axis| {
                let side = f64::from(normal[axis]) / 8.0 * faces_mm2[axis];
                side * side
            });
            squares.sum::<f64>().sqrt()
        };
        NORMALS[code].iter().map(area).sum()
    })
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::*;

    #[test]
    fn one_voxel_has_a_corner_of_each_kind() {
        let codes = neighbour_codes(Array3::from_elem((1, 1, 1), true).view());
        // (z, y, x): the voxel lies after the first corner and before the last.
        assert_eq!(codes[(0, 0, 0)], 1);
        assert_eq!(codes[(1, 0, 0)], 2);
        assert_eq!(codes[(0, 1, 0)], 4);
        assert_eq!(codes[(0, 0, 1)], 16);
        assert_eq!(codes[(1, 1, 1)], 128);
    }

    #[test]
    fn a_box_has_the_area_of_its_faces_except_at_edges() {
        let codes = neighbour_codes(Array3::from_elem((10, 20, 30), true).view());
        let areas = areas_mm2([1.0, 2.0, 3.0]);
        let area: f64 = codes.iter().map(|code| areas[usize::from(*code)]).sum();
        let (x, y, z) = (30.0 * 1.0, 20.0 * 2.0, 10.0 * 3.0);
        let whole = 2.0 * (x * y + y * z + x * z);
        assert!(area < whole && area > 0.9 * whole, "{area} of {whole}");
        assert!(areas[0] == 0.0 && areas[255] == 0.0);
    }
}
