//! Hole filling.

use ndarray::{Array3, ArrayViewMut3, Axis};

use super::components::{Connectivity, retain_components};

/// Fills the holes of `mask`: background that is not connected (across faces) to the border of the array. With an
/// axis in `slices` (0, 1, 2 for z, y, x), holes are filled in each slice across it separately. As
/// `scipy.ndimage.binary_fill_holes` of the volume or of each slice.
///
/// # Shapes
/// `mask`: (z, y, x)
pub fn fill_holes(mask: &mut Array3<bool>, slices: Option<usize>) {
    match slices {
        None => fill(mask.view_mut(), [true; 3]),
        Some(axis) => {
            let mut counted = [true; 3];
            counted[axis] = false;
            for slice in mask.axis_chunks_iter_mut(Axis(axis), 1) {
                fill(slice, counted);
            }
        }
    }
}

/// `borders`: the axes along which touching the border of the array means outside.
fn fill(mut mask: ArrayViewMut3<bool>, borders: [bool; 3]) {
    let mut holes = mask.mapv(|inside| !inside);
    retain_components(holes.view_mut(), Connectivity::Six, |component| {
        !component
            .at_border
            .iter()
            .zip(borders)
            .any(|(at, counts)| *at && counts)
    });
    mask.zip_mut_with(&holes, |inside, hole| *inside |= hole);
}
