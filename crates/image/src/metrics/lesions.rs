//! Lesion-wise detection: which connected components of a structure were found.

use super::overlap::ratio;
use crate::labels::components::{Connectivity, overlap_per_component};
use crate::labels::run_length_mask::RunMask;

/// Connected components of a structure in reference and prediction. A component that shares no voxel with the other
/// mask is missed or a false positive: the lesion-wise detection of ISLES 2022 (Hernandez Petzsche et al., Scientific
/// Data).
///
/// `f1` is undefined if neither has components, `sensitivity` if the reference has none, `precision` if the prediction
/// has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Detection {
    /// Components of the reference.
    pub reference: u64,
    /// Components of the reference that share a voxel with the prediction.
    pub found: u64,
    /// Components of the prediction.
    pub predicted: u64,
    /// Components of the prediction that share no voxel with the reference.
    pub false_positive: u64,
}

impl Detection {
    /// Compares two masks of equal shape.
    pub fn of(prediction: &RunMask, reference: &RunMask, connectivity: Connectivity) -> Self {
        let in_prediction = overlap_per_component(reference, prediction, connectivity);
        let in_reference = overlap_per_component(prediction, reference, connectivity);
        let missed = |overlaps: &[usize]| overlaps.iter().filter(|voxels| **voxels == 0).count();
        Self {
            reference: in_prediction.len() as u64,
            found: (in_prediction.len() - missed(&in_prediction)) as u64,
            predicted: in_reference.len() as u64,
            false_positive: missed(&in_reference) as u64,
        }
    }

    /// 2 found / (2 found + false positive + missed).
    pub fn f1(&self) -> Option<f64> {
        let wrong = self.false_positive + self.reference - self.found;
        ratio(2 * self.found, 2 * self.found + wrong)
    }

    /// The fraction of the reference's components that were found.
    pub fn sensitivity(&self) -> Option<f64> {
        ratio(self.found, self.reference)
    }

    /// The fraction of the prediction's components that are in the reference.
    pub fn precision(&self) -> Option<f64> {
        ratio(self.predicted - self.false_positive, self.predicted)
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array3, s};

    use super::*;

    #[test]
    fn components_are_found_missed_or_false() {
        let mut reference = Array3::from_elem((4, 6, 12), false);
        reference.slice_mut(s![0..2, 0..2, 0..2]).fill(true);
        reference.slice_mut(s![0..2, 0..2, 5..7]).fill(true);
        reference[(3, 5, 11)] = true; // missed
        let mut prediction = Array3::from_elem((4, 6, 12), false);
        // One component across two of the reference, and a false one of two voxels that touch at a corner.
        prediction.slice_mut(s![1..2, 1..2, 1..6]).fill(true);
        prediction[(3, 4, 0)] = true;
        prediction[(2, 3, 1)] = true;
        let all = Connectivity::TwentySix;
        let [prediction, reference] = [prediction, reference].map(|mask| RunMask::of(mask.view()));
        let found = Detection::of(&prediction, &reference, all);
        let wanted = Detection {
            reference: 3,
            found: 2,
            predicted: 2,
            false_positive: 1,
        };
        assert_eq!(found, wanted);
        assert_eq!(found.f1(), Some(4.0 / 6.0));
        assert_eq!(found.sensitivity(), Some(2.0 / 3.0));
        assert_eq!(found.precision(), Some(0.5));
        let faces = Detection::of(&prediction, &reference, Connectivity::Six);
        assert_eq!((faces.predicted, faces.false_positive), (3, 2));
        let nothing = RunMask::empty([4, 6, 12]);
        let none = Detection::of(&nothing, &nothing, all);
        assert_eq!(
            (none.f1(), none.sensitivity(), none.precision()),
            (None, None, None)
        );
    }
}
