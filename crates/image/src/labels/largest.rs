//! Keeping the largest component of a mask.

use ndarray::Array3;

use super::components::{Component, Connectivity, retain_components};

/// Keeps the largest component of `mask`; of several equally large ones, the first (as `numpy.argmax` over
/// `skimage.measure.regionprops`).
///
/// # Shapes
/// `mask`: (z, y, x)
pub fn keep_largest(mask: &mut Array3<bool>, connectivity: Connectivity) {
    let mut largest = 0;
    retain_components(mask.view_mut(), connectivity, |component: Component| {
        largest = largest.max(component.voxels);
        true
    });
    let mut taken = false;
    retain_components(mask.view_mut(), connectivity, |component| {
        let keep = !taken && component.voxels == largest;
        taken |= keep;
        keep
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_two_equally_large_components_is_kept() {
        let mut mask =
            Array3::from_shape_vec((1, 1, 5), vec![true, true, false, true, true]).unwrap();
        keep_largest(&mut mask, Connectivity::Six);
        assert_eq!(
            mask.into_raw_vec_and_offset().0,
            [true, true, false, false, false]
        );
        let mut empty = Array3::from_elem((2, 2, 2), false);
        keep_largest(&mut empty, Connectivity::TwentySix);
        assert!(empty.iter().all(|inside| !inside));
    }
}
