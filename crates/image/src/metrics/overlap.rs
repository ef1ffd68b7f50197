//! Overlap of a predicted and a reference label map: counts per structure, scores from counts, and summaries over
//! cases.

use ndarray::{Axis, Zip};
use rayon::prelude::*;
use serde::Serialize;

use crate::space::{Grid, LabelMap, VoxelBox};
use ctseg_base::mean::mean;
use ctseg_base::{Error, Result};

/// The confusion matrix of one structure, in voxels.
///
/// Every score is from 0 to 1, and `None` if its denominator is 0:
///
/// | prediction | reference | dice | iou | precision | recall |
/// |------------|-----------|------|-----|-----------|--------|
/// | empty      | empty     | none | none | none     | none   |
/// | empty      | not empty | 0    | 0   | none      | 0      |
/// | not empty  | empty     | 0    | 0   | 0         | none   |
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Overlap {
    /// Inside in both maps.
    pub true_positive: u64,
    /// Inside in the prediction only.
    pub false_positive: u64,
    /// Inside in the reference only.
    pub false_negative: u64,
    /// Outside in both maps.
    pub true_negative: u64,
}

impl Overlap {
    /// True and false positives, false and true negatives.
    pub fn counts(&self) -> [u64; 4] {
        [
            self.true_positive,
            self.false_positive,
            self.false_negative,
            self.true_negative,
        ]
    }

    /// The inverse of [`Overlap::counts`].
    pub fn of_counts(counts: [u64; 4]) -> Self {
        let [true_positive, false_positive, false_negative, true_negative] = counts;
        Self {
            true_positive,
            false_positive,
            false_negative,
            true_negative,
        }
    }

    /// 2 TP / (2 TP + FP + FN), the Dice coefficient; `None` if both masks are empty (as MONAI's
    /// `compute_dice` with `ignore_empty`, where it is NaN).
    pub fn dice(&self) -> Option<f64> {
        let predicted_and_reference = self.predicted_voxels() + self.reference_voxels();
        ratio(2 * self.true_positive, predicted_and_reference)
    }

    /// TP / (TP + FP + FN), intersection over union (Jaccard); `None` if both masks are empty.
    pub fn iou(&self) -> Option<f64> {
        ratio(
            self.true_positive,
            self.true_positive + self.false_positive + self.false_negative,
        )
    }

    /// TP / (TP + FP), the fraction of the prediction that is correct; `None` if the prediction is empty.
    pub fn precision(&self) -> Option<f64> {
        ratio(self.true_positive, self.predicted_voxels())
    }

    /// TP / (TP + FN), the fraction of the reference that was found; `None` if the reference is empty.
    pub fn recall(&self) -> Option<f64> {
        ratio(self.true_positive, self.reference_voxels())
    }

    /// TN / (TN + FP), the fraction of the voxels outside the structure that are predicted outside; `None` if the
    /// reference fills the volume.
    pub fn specificity(&self) -> Option<f64> {
        ratio(self.true_negative, self.true_negative + self.false_positive)
    }

    /// (TP + TN) / all voxels; `None` if there are no voxels.
    pub fn accuracy(&self) -> Option<f64> {
        let correct = self.true_positive + self.true_negative;
        ratio(correct, correct + self.false_positive + self.false_negative)
    }

    /// Voxels of the structure in the prediction.
    pub fn predicted_voxels(&self) -> u64 {
        self.true_positive + self.false_positive
    }

    /// Voxels of the structure in the reference.
    pub fn reference_voxels(&self) -> u64 {
        self.true_positive + self.false_negative
    }
}

/// `None` if `whole` is 0.
pub(super) fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Volume in mL of `voxels` voxels of `grid`.
pub fn volume_ml(voxels: u64, grid: &Grid) -> f64 {
    voxels as f64 * grid.voxel_volume_ml()
}

/// The overlap of each of `structures` (label numbers, in any order; 0 is the background), in the
/// order given, in one pass over the voxels.
///
/// Fails if the maps differ in shape, or in position by more than a tenth of the smallest voxel spacing, as comparing
/// them voxel by voxel would be meaningless.
pub fn overlaps(
    prediction: &LabelMap,
    reference: &LabelMap,
    structures: &[u16],
) -> Result<Vec<Overlap>> {
    check_comparable(prediction, reference)?;
    // The slot of each label; labels not requested share the last slot, which is dropped.
    let mut unique = structures.to_vec();
    unique.sort_unstable();
    unique.dedup();
    let mut slots = vec![unique.len(); usize::from(u16::MAX) + 1];
    for (slot, label) in unique.iter().enumerate() {
        slots[usize::from(*label)] = slot;
    }
    let none = || vec![Counts::default(); unique.len() + 1];
    let counts = (0..prediction.data.len_of(Axis(0)))
        .into_par_iter()
        .fold(none, |mut counts, z| {
            count_slice(prediction, reference, z, &slots, &mut counts);
            counts
        })
        .reduce(none, |mut sum, slice| {
            for (a, b) in sum.iter_mut().zip(slice) {
                a.both += b.both;
                a.predicted += b.predicted;
                a.reference += b.reference;
            }
            sum
        });
    let total = prediction.data.len() as u64;
    let overlap = |label: &u16| {
        let Counts {
            both,
            predicted,
            reference,
        } = counts[slots[usize::from(*label)]];
        Overlap {
            true_positive: both,
            false_positive: predicted - both,
            false_negative: reference - both,
            true_negative: total + both - predicted - reference,
        }
    };
    Ok(structures.iter().map(overlap).collect())
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    both: u64,
    predicted: u64,
    reference: u64,
}

fn count_slice(
    prediction: &LabelMap,
    reference: &LabelMap,
    z: usize,
    slots: &[usize],
    counts: &mut [Counts],
) {
    let slices = [prediction, reference].map(|map| map.data.index_axis(Axis(0), z));
    Zip::from(&slices[0]).and(&slices[1]).for_each(|p, r| {
        let (p_slot, r_slot) = (slots[usize::from(*p)], slots[usize::from(*r)]);
        counts[p_slot].predicted += 1;
        counts[r_slot].reference += 1;
        counts[p_slot].both += u64::from(p == r);
    });
}

fn check_comparable(prediction: &LabelMap, reference: &LabelMap) -> Result<()> {
    let shapes = [prediction, reference].map(|map| {
        let (z, y, x) = map.data.dim();
        [x, y, z]
    });
    if shapes[0] != shapes[1] {
        let [found, expected] = shapes.map(|[x, y, z]| format!("{x}x{y}x{z}"));
        return Err(Error::invalid(format!(
            "the prediction has {found} voxels (x, y, z) but the reference has {expected}; \
             expected label maps of equal shape: predict on the image that the reference belongs to"
        )));
    }
    let spacing = reference.grid.spacing_mm();
    let tolerance_mm = 0.1 * spacing.into_iter().fold(f64::INFINITY, f64::min);
    let shift_mm = prediction.grid.largest_shift_mm(&reference.grid);
    // In this direction, so that NaN fails.
    if shift_mm <= tolerance_mm {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "prediction and reference lie up to {shift_mm:.3} mm apart; expected the same position to within \
         {tolerance_mm:.3} mm: check orientation and affine of the two files"
    )))
}

/// The fraction of the reference's foreground voxels (any label but 0) that lie inside `region`: the recall of a region
/// of interest. `None` if the reference has no foreground.
///
/// Any part of `region` beyond the label map counts as empty.
pub fn recall_inside(reference: &LabelMap, region: &VoxelBox) -> Option<f64> {
    let (inside, all) = reference
        .data
        .axis_iter(Axis(0))
        .into_par_iter()
        .enumerate()
        .map(|(z, slice)| {
            let (mut inside, mut all) = (0u64, 0u64);
            for ((y, x), label) in slice.indexed_iter() {
                if *label != 0 {
                    all += 1;
                    inside += u64::from(region.contains([x, y, z]));
                }
            }
            (inside, all)
        })
        .reduce(|| (0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    ratio(inside, all)
}

/// Summary of one score over cases; undefined scores are excluded but counted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// Arithmetic mean; `None` if no case has a score, as are `min` and `max`.
    pub mean: Option<f64>,
    /// Sample standard deviation (ddof = 1); `None` with fewer than two scores.
    pub sd: Option<f64>,
    /// The lowest score.
    pub min: Option<f64>,
    /// The highest score.
    pub max: Option<f64>,
    /// Cases with a score.
    pub defined: usize,
    /// Cases without a score (`None` or not finite).
    pub undefined: usize,
}

impl Summary {
    /// Only [`Self::mean`].
    pub fn mean_of(scores: impl IntoIterator<Item = Option<f64>>) -> Option<f64> {
        let defined = scores.into_iter().flatten();
        mean(defined.filter(|score| score.is_finite()))
    }

    /// Summary of one score per case; sums follow the order given.
    pub fn of(scores: impl IntoIterator<Item = Option<f64>>) -> Self {
        let mut undefined = 0;
        let mut defined = Vec::new();
        for score in scores {
            match score {
                Some(score) if score.is_finite() => defined.push(score),
                _ => undefined += 1,
            }
        }
        let count = defined.len() as f64;
        let mean = mean(defined.iter().copied());
        let sd = mean.filter(|_| defined.len() > 1).map(|mean| {
            let squares: f64 = defined.iter().map(|score| (score - mean).powi(2)).sum();
            (squares / (count - 1.0)).sqrt()
        });
        Self {
            mean,
            sd,
            min: defined.iter().copied().reduce(f64::min),
            max: defined.iter().copied().reduce(f64::max),
            defined: defined.len(),
            undefined,
        }
    }
}
