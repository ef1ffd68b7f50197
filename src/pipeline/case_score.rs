//! One held-out case: Dice, IoU and the recipe's loss from logits on the network's grid, in plain memory.

use ndarray::{ArrayView2, ArrayView3, ArrayView4, Axis, Zip};
use rayon::prelude::*;

use crate::arrays::metrics::Overlap;
use crate::tensors::losses::Loss;

/// Added to numerator and denominator of the soft Dice, as in training.
const SMOOTH: f64 = 1.0;

/// How good one case's logits are.
#[derive(Debug, Clone, PartialEq)]
pub struct CaseScore {
    /// For each output map; none where it neither holds nor predicts the structure.
    pub dice: Vec<Option<f64>>,
    pub iou: Vec<Option<f64>>,
    /// The loss of training, with the case as its batch.
    pub loss: f64,
}

/// Scores `logits` against `labels`; `maps` are the label values of each output map.
///
/// Logits above 0 count as predicted. The loss is [`Loss::compute`]'s, summed in f64. The result is the
/// same for any number of threads.
///
/// # Shapes
/// - `logits`: (map, z, y, x); `labels`: (z, y, x)
pub fn case_score(
    loss: Loss,
    logits: ArrayView4<f32>,
    labels: ArrayView3<u16>,
    maps: &[Vec<u16>],
) -> CaseScore {
    let sums: Vec<Sums> = logits
        .axis_iter(Axis(0))
        .zip(maps)
        .map(|(map, values)| {
            let slices: Vec<Sums> = (0..map.len_of(Axis(0)))
                .into_par_iter()
                .map(|z| {
                    let (map, labels) = (map.index_axis(Axis(0), z), labels.index_axis(Axis(0), z));
                    Sums::of(map, labels, values)
                })
                .collect();
            // Added in order, so that the number of threads changes nothing.
            slices.into_iter().fold(Sums::default(), Sums::plus)
        })
        .collect();
    let count = sums.len().max(1) as f64;
    let voxels = labels.len().max(1) as f64;
    let cross_entropy = sums.iter().map(|s| s.cross_entropy).sum::<f64>() / (voxels * count);
    let soft_dice = 1.0 - sums.iter().map(Sums::soft_dice).sum::<f64>() / count;
    CaseScore {
        dice: sums.iter().map(|s| s.overlap().dice()).collect(),
        iou: sums.iter().map(|s| s.overlap().iou()).collect(),
        loss: match loss {
            Loss::Bce => cross_entropy,
            Loss::Dice => soft_dice,
            Loss::BceDice => cross_entropy + soft_dice,
        },
    }
}

/// Sums over the voxels of one map.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    both: u64,
    predicted: u64,
    there: u64,
    cross_entropy: f64,
    soft_overlap: f64,
    soft_size: f64,
}

impl Sums {
    fn of(logits: ArrayView2<f32>, labels: ArrayView2<u16>, values: &[u16]) -> Self {
        let mut sums = Self::default();
        Zip::from(logits).and(labels).for_each(|x, label| {
            let (predicted, there) = (*x > 0.0, values.contains(label));
            sums.both += u64::from(predicted && there);
            sums.predicted += u64::from(predicted);
            sums.there += u64::from(there);
            // The form that cannot overflow: max(x, 0) − x·t + ln(1 + e^−|x|).
            let e = (-x.abs()).exp();
            let target = if there { 1.0 } else { 0.0 };
            sums.cross_entropy += f64::from(x.max(0.0) - x * target + e.ln_1p());
            let probability = if predicted { 1.0 } else { e } / (1.0 + e);
            sums.soft_overlap += f64::from(probability * target);
            sums.soft_size += f64::from(probability);
        });
        sums
    }

    fn plus(self, other: Self) -> Self {
        Self {
            both: self.both + other.both,
            predicted: self.predicted + other.predicted,
            there: self.there + other.there,
            cross_entropy: self.cross_entropy + other.cross_entropy,
            soft_overlap: self.soft_overlap + other.soft_overlap,
            soft_size: self.soft_size + other.soft_size,
        }
    }

    fn soft_dice(&self) -> f64 {
        (2.0 * self.soft_overlap + SMOOTH) / (self.soft_size + self.there as f64 + SMOOTH)
    }

    fn overlap(&self) -> Overlap {
        Overlap {
            true_positive: self.both,
            false_positive: self.predicted - self.both,
            false_negative: self.there - self.both,
            true_negative: 0, // neither Dice nor IoU asks for it
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensors::device::DeviceChoice;
    use burn::tensor::{Tensor, TensorData};
    use ndarray::{Array3, Array4};

    const MAPS: usize = 3;

    fn case() -> (Array4<f32>, Array3<u16>, Vec<Vec<u16>>) {
        let logits = Array4::from_shape_fn((MAPS, 4, 5, 6), |(m, z, y, x)| {
            let at = (m * 120 + z * 30 + y * 6 + x) as f32;
            8.0 * (at * 0.37).sin() + (at * 0.11).cos() - 2.0
        });
        let labels = Array3::from_shape_fn((4, 5, 6), |(z, y, x)| ((z + 2 * y + x) % 4) as u16);
        (logits, labels, vec![vec![1], vec![2, 3], vec![300]])
    }

    #[test]
    fn the_loss_is_that_of_training() {
        let (logits, labels, maps) = case();
        let device = DeviceChoice::Auto.device().unwrap();
        // One batch of one patch: slices side by side are one long slice.
        let shape = [1, MAPS, 1, 20, 6];
        let targets: Vec<f32> = maps
            .iter()
            .flat_map(|values| {
                labels
                    .iter()
                    .map(|l| f32::from(u8::from(values.contains(l))))
            })
            .collect();
        let tensor =
            |values: Vec<f32>| Tensor::<5>::from_data(TensorData::new(values, shape), &device);
        for loss in [Loss::Bce, Loss::Dice, Loss::BceDice] {
            let expected = loss
                .compute(
                    tensor(logits.iter().copied().collect()),
                    tensor(targets.clone()),
                )
                .into_scalar::<f32>();
            let found = case_score(loss, logits.view(), labels.view(), &maps).loss;
            assert!(
                (found - f64::from(expected)).abs() < 2e-6,
                "{loss:?}: {found} against {expected}"
            );
        }
    }

    #[test]
    fn overlaps_are_counted_per_map() {
        let (mut logits, labels, maps) = case();
        logits.fill(-1.0);
        // All of map 0 is predicted; a quarter of the voxels hold label 1.
        logits.index_axis_mut(Axis(0), 0).fill(1.0);
        let score = case_score(Loss::Bce, logits.view(), labels.view(), &maps);
        assert_eq!(score.dice, [Some(0.4), Some(0.0), None]);
        assert_eq!(score.iou, [Some(0.25), Some(0.0), None]);
    }

    #[test]
    fn threads_change_nothing_and_large_logits_stay_finite() {
        let (logits, labels, maps) = case();
        let logits = logits * 1e5;
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let score = || case_score(Loss::BceDice, logits.view(), labels.view(), &maps);
            pool.build().unwrap().install(score)
        };
        assert!(on(1).loss.is_finite());
        assert_eq!(on(1), on(3));
    }
}
