//! Exact distance from every element of one surface to the nearest element of another, one axis at a time
//! (Felzenszwalb and Huttenlocher, "Distance transforms of sampled functions", Theory of Computing 2012). The first
//! axis counts whole steps and the others go slice by slice, so that memory is two bytes per voxel plus a few slices.

use ndarray::{Array3, ArrayView2, ArrayView3, Axis, Zip, s};
use rayon::prelude::*;

use super::elements::{Element, is_surface};
use crate::metrics::distance_transform::Envelope;

/// No surface in a voxel's column.
const FAR: u16 = u16::MAX;

/// Rows that a thread processes at a time.
const ROWS: usize = 8;

/// For every element of surface `from`, its area and its distance to the nearest element of surface `to`; infinite if
/// there is none. `areas_mm2` is indexed by code; voxels have `spacing_mm` (x, y, z).
///
/// # Shapes
/// Neighbourhood codes: (z, y, x), equal shapes, no side longer than 65,534
pub fn distances(
    from: ArrayView3<u8>,
    to: ArrayView3<u8>,
    areas_mm2: &[f64; 256],
    spacing_mm: [f64; 3],
) -> Vec<Element> {
    let steps = steps_along_z(to);
    let slices: Vec<Vec<Element>> = (0..from.dim().0)
        .into_par_iter()
        .map_init(Slice::default, |slice, z| {
            let from = from.index_axis(Axis(0), z);
            slice.distances(from, steps.index_axis(Axis(0), z), areas_mm2, spacing_mm)
        })
        .collect();
    slices.concat()
}

/// The number of steps along z to the nearest element of the surface.
fn steps_along_z(codes: ArrayView3<u8>) -> Array3<u16> {
    let depth = codes.dim().0;
    let mut steps = Array3::from_elem(codes.raw_dim(), FAR);
    steps
        .axis_chunks_iter_mut(Axis(1), ROWS)
        .into_par_iter()
        .zip(codes.axis_chunks_iter(Axis(1), ROWS).into_par_iter())
        .for_each(|(mut steps, codes)| {
            for z in 0..depth {
                let (before, mut here) =
                    steps.multi_slice_mut((s![z.saturating_sub(1)..z, .., ..], s![z, .., ..]));
                let codes = codes.index_axis(Axis(0), z);
                match before.outer_iter().next() {
                    None => here.zip_mut_with(&codes, |here, code| {
                        *here = if is_surface(*code) { 0 } else { FAR };
                    }),
                    Some(before) => Zip::from(&mut here).and(&before).and(&codes).for_each(
                        |here, before, code| {
                            *here = if is_surface(*code) {
                                0
                            } else {
                                before.saturating_add(1)
                            };
                        },
                    ),
                }
            }
            for z in (1..depth).rev() {
                let (mut here, after) = steps.multi_slice_mut((s![z - 1, .., ..], s![z, .., ..]));
                here.zip_mut_with(&after, |here, after| {
                    *here = (*here).min(after.saturating_add(1))
                });
            }
        });
    steps
}

/// Buffers for one slice.
#[derive(Default)]
struct Slice {
    envelope: Envelope,
    line: Vec<f64>,
    /// The squared distance in y and z to the nearest element with the same x.
    squares: Vec<f64>,
    /// The row (y) of that element.
    rows: Vec<u16>,
}

impl Slice {
    fn distances(
        &mut self,
        from: ArrayView2<u8>,
        steps: ArrayView2<u16>,
        areas_mm2: &[f64; 256],
        spacing_mm: [f64; 3],
    ) -> Vec<Element> {
        let mut found = Vec::new();
        let wanted: Vec<usize> = (0..from.nrows())
            .filter(|y| from.row(*y).iter().any(|code| is_surface(*code)))
            .collect();
        let (Some(first), Some(last)) = (wanted.first(), wanted.last()) else {
            return found;
        };
        self.columns_pass(steps, (*first, *last), spacing_mm);
        for y in wanted {
            self.row_pass(y, from, steps, areas_mm2, spacing_mm, &mut found);
        }
        found
    }

    /// Fills `squares` and `rows` from row `first` to row `last`.
    fn columns_pass(
        &mut self,
        steps: ArrayView2<u16>,
        (first, last): (usize, usize),
        [_, step_y_mm, step_z_mm]: [f64; 3],
    ) {
        let (height, width) = steps.dim();
        self.squares.clear();
        self.squares.resize(height * width, f64::INFINITY);
        self.rows.resize(height * width, 0);
        for (x, column) in steps.columns().into_iter().enumerate() {
            self.line.clear();
            self.line.extend(column.iter().map(|steps| match *steps {
                FAR => f64::INFINITY,
                steps => square(f64::from(steps) * step_z_mm),
            }));
            if !self.envelope.build(&self.line, step_y_mm) {
                continue;
            }
            let mut place = 0;
            for y in first..=last {
                let row = self.envelope.lowest_at(y, step_y_mm, &mut place);
                let offset_mm = y.abs_diff(row) as f64 * step_y_mm;
                self.squares[y * width + x] = square(offset_mm) + self.line[row];
                self.rows[y * width + x] = row as u16;
            }
        }
    }

    fn row_pass(
        &mut self,
        y: usize,
        from: ArrayView2<u8>,
        steps: ArrayView2<u16>,
        areas_mm2: &[f64; 256],
        [step_x_mm, step_y_mm, step_z_mm]: [f64; 3],
        found: &mut Vec<Element>,
    ) {
        let width = from.ncols();
        let range = y * width..(y + 1) * width;
        let reached = self.envelope.build(&self.squares[range.clone()], step_x_mm);
        let rows = &self.rows[range];
        let mut place = 0;
        for (x, code) in from.row(y).iter().enumerate() {
            if !is_surface(*code) {
                continue;
            }
            let distance_mm = if reached {
                let column = self.envelope.lowest_at(x, step_x_mm, &mut place);
                let row = usize::from(rows[column]);
                // Summed in SciPy's order, so that the last bit agrees.
                let square_x = square(x.abs_diff(column) as f64 * step_x_mm);
                let square_y = square(y.abs_diff(row) as f64 * step_y_mm);
                let square_z = square(f64::from(steps[(row, column)]) * step_z_mm);
                (square_x + square_y + square_z).sqrt()
            } else {
                f64::INFINITY
            };
            let area_mm2 = areas_mm2[usize::from(*code)];
            found.push(Element {
                distance_mm,
                area_mm2,
            });
        }
    }
}

fn square(value: f64) -> f64 {
    value * value
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Every element's distance is the minimum over all elements of the other surface.
        #[test]
        fn distances_match_brute_force(
            shape in (1usize..7, 1usize..8, 1usize..9),
            bits in proptest::collection::vec(0u8..20, 2 * 7 * 8 * 9),
            spacing_mm in (0.5f64..3.0, 0.5f64..3.0, 0.5f64..3.0),
        ) {
            let half = shape.0 * shape.1 * shape.2;
            // Sparse surfaces.
            let codes = |bits: &[u8]| {
                let codes = bits.iter().map(|bit| if *bit == 0 { 7 } else { 0 });
                Array3::from_shape_vec(shape, codes.take(half).collect()).unwrap()
            };
            let (from, to) = (codes(&bits[..half]), codes(&bits[half..]));
            let spacing_mm = [spacing_mm.0, spacing_mm.1, spacing_mm.2];
            let mut areas = [0.0; 256];
            areas[7] = 1.5;
            let found = distances(from.view(), to.view(), &areas, spacing_mm);
            let wanted: Vec<f64> = from
                .indexed_iter()
                .filter(|(_, code)| **code > 0)
                .map(|(a, _)| {
                    let to = to.indexed_iter().filter(|(_, code)| **code > 0);
                    to.map(|(b, _)| {
                        let offsets_mm = [
                            a.2.abs_diff(b.2) as f64 * spacing_mm[0],
                            a.1.abs_diff(b.1) as f64 * spacing_mm[1],
                            a.0.abs_diff(b.0) as f64 * spacing_mm[2],
                        ];
                        offsets_mm.map(square).iter().sum::<f64>().sqrt()
                    })
                    .fold(f64::INFINITY, f64::min)
                })
                .collect();
            prop_assert_eq!(found.len(), wanted.len());
            for (found, wanted) in found.iter().zip(wanted) {
                let same = found.distance_mm == wanted
                    || (found.distance_mm - wanted).abs() < 1e-12 * wanted;
                prop_assert!(same, "{} {}", found.distance_mm, wanted);
                prop_assert_eq!(found.area_mm2, 1.5);
            }
        }
    }
}
