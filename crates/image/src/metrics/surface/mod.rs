//! Distances between two surfaces, weighted by area: every voxel corner with voxels inside and outside around it has a
//! surface element with an area (marching cubes), so that results hardly depend on the voxel size. Agrees with
//! google-deepmind/surface-distance (Nikolov et al., "Clinically applicable segmentation of head and neck anatomy for
//! radiotherapy", JMIR 2021) up to the last bits.

mod elements;
mod nearest;
mod normals;
mod scattered;

use ndarray::ArrayView3;
use rayon::prelude::*;

use elements::{Element, areas_mm2, neighbour_codes};
use nearest::distances;

use crate::labels::run_length_mask::RunMask;

/// The distances between the surfaces of a predicted and a reference mask.
///
/// | prediction | reference | Hausdorff, HD95, ASSD | surface Dice |
/// |------------|-----------|-----------------------|--------------|
/// | empty      | empty     | none                  | none         |
/// | empty      | not empty | none (infinite)       | 0            |
/// | not empty  | empty     | none (infinite)       | 0            |
#[derive(Debug, Clone, PartialEq)]
pub struct SurfaceDistances {
    from_prediction: SortedElements,
    from_reference: SortedElements,
}

/// The elements of one surface, sorted by distance to the other.
#[derive(Debug, Clone, PartialEq)]
struct SortedElements {
    elements: Vec<Element>,
}

impl SurfaceDistances {
    /// Compares two masks of equal shape with voxels of `spacing_mm` (x, y, z).
    ///
    /// Voxels beyond the masks are outside, so a structure that touches a face has a surface there. Masks cropped to
    /// the bounding box of both structures give the same result as whole volumes.
    ///
    /// # Shapes
    /// Masks: (z, y, x)
    pub fn between(
        prediction: ArrayView3<bool>,
        reference: ArrayView3<bool>,
        spacing_mm: [f64; 3],
    ) -> Self {
        let areas_mm2 = areas_mm2(spacing_mm);
        let codes = [prediction, reference].map(neighbour_codes);
        let [prediction, reference] = [codes[0].view(), codes[1].view()];
        let directed = |from, to| SortedElements::new(distances(from, to, &areas_mm2, spacing_mm));
        Self {
            from_prediction: directed(prediction, reference),
            from_reference: directed(reference, prediction),
        }
    }

    /// [`Self::between`] for sparse masks: time grows with their voxels, not with the box around them. If two elements
    /// are equally near, the last bit may differ.
    pub fn between_scattered(
        prediction: &RunMask,
        reference: &RunMask,
        spacing_mm: [f64; 3],
    ) -> Self {
        let areas_mm2 = areas_mm2(spacing_mm);
        let [prediction, reference] = [prediction, reference].map(scattered::corners);
        let directed = |from: &[scattered::Corner], to: &[scattered::Corner]| {
            SortedElements::new(scattered::distances(from, to, &areas_mm2, spacing_mm))
        };
        Self {
            from_prediction: directed(&prediction, &reference),
            from_reference: directed(&reference, &prediction),
        }
    }

    /// Hausdorff distance: the largest distance from either surface to the other.
    pub fn hausdorff_mm(&self) -> Option<f64> {
        self.larger(|surface| surface.elements.last().map(|last| last.distance_mm))
    }

    /// Robust Hausdorff distance: the larger of the two surfaces' `percent`-th percentiles of distance, weighted by
    /// area; HD95 with 95.
    pub fn robust_hausdorff_mm(&self, percent: f64) -> Option<f64> {
        self.larger(|surface| surface.percentile_mm(percent))
    }

    /// Average symmetric surface distance: the mean over the area of both surfaces.
    pub fn average_mm(&self) -> Option<f64> {
        let surfaces = [&self.from_prediction, &self.from_reference];
        if surfaces.iter().any(|one| one.elements.is_empty()) {
            return None;
        }
        let weighted: f64 = surfaces.iter().map(|one| one.weighted_sum()).sum();
        let area: f64 = surfaces.iter().map(|one| one.area_mm2()).sum();
        Some(weighted / area)
    }

    /// Surface Dice (normalised surface distance, NSD): the fraction of both surfaces' area within `tolerance_mm` of
    /// the other.
    pub fn surface_dice(&self, tolerance_mm: f64) -> Option<f64> {
        let surfaces = [&self.from_prediction, &self.from_reference];
        let area: f64 = surfaces.iter().map(|one| one.area_mm2()).sum();
        let near: f64 = surfaces
            .iter()
            .map(|one| one.area_within(tolerance_mm))
            .sum();
        (area > 0.0).then(|| near / area)
    }

    /// The larger distance of the two directions; `None` if a mask is empty.
    fn larger(&self, distance_mm: impl Fn(&SortedElements) -> Option<f64>) -> Option<f64> {
        let a = distance_mm(&self.from_prediction)?;
        let b = distance_mm(&self.from_reference)?;
        Some(a.max(b)).filter(|largest| largest.is_finite())
    }
}

impl SortedElements {
    fn new(mut elements: Vec<Element>) -> Self {
        elements.par_sort_unstable_by(|a, b| {
            let by_distance = a.distance_mm.total_cmp(&b.distance_mm);
            by_distance.then(a.area_mm2.total_cmp(&b.area_mm2))
        });
        Self { elements }
    }

    fn area_mm2(&self) -> f64 {
        self.elements.iter().map(|element| element.area_mm2).sum()
    }

    fn area_within(&self, tolerance_mm: f64) -> f64 {
        let end = self
            .elements
            .partition_point(|element| element.distance_mm <= tolerance_mm);
        // Not `sum`, which is -0 for an empty range.
        let near = self.elements[..end].iter().map(|e| e.area_mm2);
        near.fold(0.0, |sum, area| sum + area)
    }

    fn weighted_sum(&self) -> f64 {
        let weighted = |element: &Element| element.distance_mm * element.area_mm2;
        self.elements.iter().map(weighted).sum()
    }

    fn percentile_mm(&self, percent: f64) -> Option<f64> {
        let whole = self.area_mm2();
        let mut area = 0.0;
        let reached = self.elements.iter().find(|element| {
            area += element.area_mm2;
            area / whole >= percent / 100.0
        });
        let element = reached.or(self.elements.last())?;
        Some(element.distance_mm)
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array3, s};

    use super::*;

    fn cube(at: usize, side: usize) -> Array3<bool> {
        let mut mask = Array3::from_elem((20, 20, 20), false);
        let range = at..at + side;
        mask.slice_mut(s![range.clone(), range.clone(), range])
            .fill(true);
        mask
    }

    #[test]
    fn a_shifted_cube_is_as_far_away_as_it_was_shifted() {
        let mut moved = Array3::from_elem((20, 20, 20), false);
        moved
            .slice_mut(s![5..11, 5..11, 7..13])
            .assign(&cube(5, 6).slice(s![5..11, 5..11, 5..11]));
        let found = SurfaceDistances::between(moved.view(), cube(5, 6).view(), [1.5, 1.0, 1.0]);
        assert_eq!(found.hausdorff_mm(), Some(3.0));
        assert_eq!(found.surface_dice(3.0), Some(1.0));
        assert!(found.surface_dice(2.9).unwrap() < 1.0);
        assert!(found.average_mm().unwrap() < 1.5);
    }

    #[test]
    fn equal_masks_have_distance_0_and_empty_ones_none() {
        let (one, nothing) = (cube(3, 5), Array3::from_elem((20, 20, 20), false));
        let same = SurfaceDistances::between(one.view(), one.view(), [1.0; 3]);
        assert_eq!(same.hausdorff_mm(), Some(0.0));
        assert_eq!(same.average_mm(), Some(0.0));
        assert_eq!(same.surface_dice(0.0), Some(1.0));
        for (a, b) in [(&one, &nothing), (&nothing, &one)] {
            let found = SurfaceDistances::between(a.view(), b.view(), [1.0; 3]);
            assert_eq!(found.hausdorff_mm(), None);
            assert_eq!(found.robust_hausdorff_mm(95.0), None);
            assert_eq!(found.average_mm(), None);
            assert_eq!(found.surface_dice(5.0), Some(0.0));
            assert!(found.surface_dice(5.0).is_some_and(f64::is_sign_positive));
        }
        let none = SurfaceDistances::between(nothing.view(), nothing.view(), [1.0; 3]);
        assert_eq!((none.surface_dice(1.0), none.hausdorff_mm()), (None, None));
    }

    #[test]
    fn cropping_to_both_structures_changes_nothing() {
        let (a, b) = (cube(4, 6), cube(6, 5));
        let cut = s![4..11, 4..11, 4..11];
        let spacing_mm = [0.7, 0.9, 2.5];
        let whole = SurfaceDistances::between(a.view(), b.view(), spacing_mm);
        let boxed = SurfaceDistances::between(a.slice(cut), b.slice(cut), spacing_mm);
        assert_eq!(whole, boxed);
    }
}
