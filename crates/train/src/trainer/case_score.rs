//! Scores one case from its logits on the network's grid: overlaps and the recipe's loss.

use ndarray::{Array3, Array5, ArrayView2, ArrayView3, ArrayView4, Axis, Zip, s};
use rayon::prelude::*;

use crate::data::distance_maps::add_distances;
use crate::data::patches::write_targets;
use ctseg_core::recipe::Recipe;
use ctseg_engine::batch::Batch;
use ctseg_engine::device::Device;
use ctseg_engine::losses::{Loss, Outputs};
use ctseg_image::metrics::overlap::Overlap;

/// Maximum number of logits per batch: losses hold several copies of them.
const MAX_LOGITS: usize = 8 << 20;

/// Everything needed to score a case.
pub(super) struct ScoringContext<'a> {
    pub recipe: &'a Recipe,
    pub loss: &'a Loss,
    /// The label values of each output map.
    pub maps: &'a [Vec<u16>],
    /// The ignore label; its voxels do not count.
    pub ignore: Option<u16>,
    /// Device of losses that are not sums over voxels.
    pub device: &'a Device,
}

/// The scores of one case.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CaseScore {
    /// For each output map, without true negatives.
    pub overlaps: Vec<Overlap>,
    /// The training loss. For cross-entropy and Dice of independent structures the whole case is one batch, summed in
    /// f64; for other losses see [`loss_in_batches`].
    pub loss: f64,
}

/// Scores `logits` against `labels`.
///
/// Independent structures are predicted where their logit is above 0; of exclusive classes the one with the largest
/// logit, if it is above 0, the background's. The result does not depend on the number of threads.
///
/// # Shapes
/// - `logits`: (map, z, y, x); `labels`: (z, y, x)
pub(super) fn case_score(
    context: &ScoringContext,
    logits: ArrayView4<f32>,
    labels: ArrayView3<u16>,
) -> CaseScore {
    let largest = match context.loss.outputs {
        Outputs::Independent => None,
        Outputs::Exclusive => Some(largest_above_background(logits)),
    };
    let sums: Vec<Sums> = logits
        .axis_iter(Axis(0))
        .zip(context.maps)
        .map(|(map, values)| {
            let slices: Vec<Sums> = (0..map.len_of(Axis(0)))
                .into_par_iter()
                .map(|z| {
                    let (map, labels) = (map.index_axis(Axis(0), z), labels.index_axis(Axis(0), z));
                    let largest = largest.as_ref().map(|all| all.index_axis(Axis(0), z));
                    Sums::of(map, labels, largest, values, context.ignore)
                })
                .collect();
            // Added in order, so that the sum does not depend on the number of threads.
            slices.into_iter().fold(Sums::default(), Sums::plus)
        })
        .collect();
    CaseScore {
        overlaps: sums.iter().map(Sums::overlap).collect(),
        loss: loss_from_sums(context.loss, &sums)
            .unwrap_or_else(|| loss_in_batches(context, logits, labels)),
    }
}

/// The largest logit of each voxel, at least 0, the background's: (z, y, x).
fn largest_above_background(logits: ArrayView4<f32>) -> Array3<f32> {
    let (_, z, y, x) = logits.dim();
    let mut largest = Array3::zeros((z, y, x));
    for map in logits.outer_iter() {
        Zip::from(&mut largest)
            .and(&map)
            .par_for_each(|largest, logit| *largest = f32::max(*largest, *logit));
    }
    largest
}

/// The loss if it can be computed from sums over voxels.
fn loss_from_sums(loss: &Loss, sums: &[Sums]) -> Option<f64> {
    let sum = loss.as_sum().filter(|sum| !sum.per_sample)?;
    let maps = sums.len().max(1) as f64;
    let annotated = sums.iter().map(|s| s.annotated).sum::<u64>().max(1) as f64;
    let cross_entropy = sums.iter().map(|s| s.cross_entropy).sum::<f64>() / annotated;
    let dice = 1.0 - sums.iter().map(|s| s.soft_dice(sum.smooth)).sum::<f64>() / maps;
    Some(match sum.cross_entropy_weight {
        // Infinite for infinite logits.
        0.0 => sum.dice_weight * dice,
        weight => weight * cross_entropy + sum.dice_weight * dice,
    })
}

/// Sums over the voxels of one map.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    /// Voxels without the ignore label.
    annotated: u64,
    true_positive: u64,
    predicted: u64,
    reference: u64,
    cross_entropy: f64,
    soft_overlap: f64,
    soft_size: f64,
}

impl Sums {
    /// `largest`: for exclusive classes, the largest logit of each voxel.
    fn of(
        logits: ArrayView2<f32>,
        labels: ArrayView2<u16>,
        largest: Option<ArrayView2<f32>>,
        values: &[u16],
        ignore: Option<u16>,
    ) -> Self {
        let mut sums = Self::default();
        let mut add = |x: f32, label: u16, is_largest: bool| {
            if Some(label) == ignore {
                return;
            }
            let (predicted, inside) = (x > 0.0 && is_largest, values.contains(&label));
            sums.annotated += 1;
            sums.true_positive += u64::from(predicted && inside);
            sums.predicted += u64::from(predicted);
            sums.reference += u64::from(inside);
            // In a form that cannot overflow: max(x, 0) − x·t + ln(1 + e^−|x|).
            let e = (-x.abs()).exp();
            let target = if inside { 1.0 } else { 0.0 };
            sums.cross_entropy += f64::from(x.max(0.0) - x * target + e.ln_1p());
            let probability = if x > 0.0 { 1.0 } else { e } / (1.0 + e);
            sums.soft_overlap += f64::from(probability * target);
            sums.soft_size += f64::from(probability);
        };
        let zip = Zip::from(logits).and(labels);
        match largest {
            None => zip.for_each(|x, label| add(*x, *label, true)),
            Some(largest) => zip
                .and(largest)
                .for_each(|x, label, largest| add(*x, *label, x >= largest)),
        }
        sums
    }

    fn plus(self, other: Self) -> Self {
        Self {
            annotated: self.annotated + other.annotated,
            true_positive: self.true_positive + other.true_positive,
            predicted: self.predicted + other.predicted,
            reference: self.reference + other.reference,
            cross_entropy: self.cross_entropy + other.cross_entropy,
            soft_overlap: self.soft_overlap + other.soft_overlap,
            soft_size: self.soft_size + other.soft_size,
        }
    }

    fn soft_dice(&self, smooth: f64) -> f64 {
        (2.0 * self.soft_overlap + smooth) / (self.soft_size + self.reference as f64 + smooth)
    }

    fn overlap(&self) -> Overlap {
        Overlap {
            true_positive: self.true_positive,
            false_positive: self.predicted - self.true_positive,
            false_negative: self.reference - self.true_positive,
            true_negative: self.annotated + self.true_positive - self.predicted - self.reference,
        }
    }
}

/// The loss that is not a sum over voxels, computed as in training a few slices at a time: in batches as large as the
/// recipe's batch (for volumes: as deep as its patch), or smaller if memory requires it. Their mean, weighted by the
/// number of slices.
fn loss_in_batches(
    context: &ScoringContext,
    logits: ArrayView4<f32>,
    labels: ArrayView3<u16>,
) -> f64 {
    let (maps, depth, height, width) = logits.dim();
    let flat = context.recipe.network.dimensions() == 2;
    let wanted = match flat {
        true => context.recipe.training.batch_size,
        false => context.recipe.training.patch_size.zyx()[0],
    };
    let affordable = MAX_LOGITS / (maps * height * width).max(1);
    let step = wanted.min(affordable).max(1);
    let mut sum = 0.0;
    for first in (0..depth).step_by(step) {
        let end = (first + step).min(depth);
        let logits = logits.slice(s![.., first..end, .., ..]);
        let batch = batch_of(context, logits, labels.slice(s![first..end, .., ..]), flat);
        sum += f64::from(context.loss.of_logits(batch, context.device)) * (end - first) as f64;
    }
    sum / depth.max(1) as f64
}

/// A batch of some slices: one sample per slice for networks on slices, otherwise one patch. `input` holds the logits.
fn batch_of(
    context: &ScoringContext,
    logits: ArrayView4<f32>,
    labels: ArrayView3<u16>,
    flat: bool,
) -> Batch {
    let (maps, depth, height, width) = logits.dim();
    let mut targets = Array5::<f32>::zeros((1, maps, depth, height, width));
    let to = targets.index_axis_mut(Axis(0), 0);
    write_targets(labels, context.maps, context.ignore, to);
    let mut logits = logits.insert_axis(Axis(0));
    if flat {
        logits.swap_axes(0, 2);
        targets.swap_axes(0, 2);
    }
    let shape = <[usize; 5]>::from(logits.dim());
    let mut batch = Batch {
        input: logits.iter().copied().collect(),
        input_shape: shape,
        targets: targets.iter().copied().collect(),
        targets_shape: shape,
        distances: None,
        whole: shape[0],
    };
    if context.loss.needs_distances() {
        add_distances(&mut batch, context.recipe);
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctseg_engine::device::DeviceChoice;
    use ctseg_engine::losses::{ClassWeights, DiceSettings, LossConfig, NoSettings, SumSettings};
    use ndarray::Array4;

    const MAPS: usize = 3;

    fn case() -> (Array4<f32>, Array3<u16>, Vec<Vec<u16>>) {
        let logits = Array4::from_shape_fn((MAPS, 4, 5, 6), |(m, z, y, x)| {
            let at = (m * 120 + z * 30 + y * 6 + x) as f32;
            8.0 * (at * 0.37).sin() + (at * 0.11).cos() - 2.0
        });
        let labels = Array3::from_shape_fn((4, 5, 6), |(z, y, x)| ((z + 2 * y + x) % 4) as u16);
        (logits, labels, vec![vec![1], vec![2, 3], vec![300]])
    }

    fn score(
        loss: &Loss,
        logits: ArrayView4<f32>,
        labels: ArrayView3<u16>,
        maps: &[Vec<u16>],
    ) -> CaseScore {
        let recipe = Recipe::named("refine2_5d", &[]).unwrap();
        let context = ScoringContext {
            recipe: &recipe,
            loss,
            maps,
            ignore: loss.ignore_nan.then_some(3),
            device: &DeviceChoice::Auto.device().unwrap(),
        };
        case_score(&context, logits, labels)
    }

    fn exclusive(config: LossConfig) -> Loss {
        Loss {
            outputs: Outputs::Exclusive,
            ..Loss::from(config)
        }
    }

    #[test]
    fn the_loss_equals_the_training_loss() {
        let (logits, labels, maps) = case();
        let device = DeviceChoice::Auto.device().unwrap();
        // One batch of four slices, fewer than the recipe's.
        let shape = [4, MAPS, 1, 5, 6];
        let by_slice = |m: usize, z: usize, of: &dyn Fn(usize, [usize; 3]) -> f32| {
            let pixels = (0..30).map(|i| of(m, [z, i / 6, i % 6]));
            pixels.collect::<Vec<f32>>()
        };
        let values = |of: &dyn Fn(usize, [usize; 3]) -> f32| -> Vec<f32> {
            (0..4)
                .flat_map(|z| (0..MAPS).flat_map(move |m| by_slice(m, z, of)))
                .collect()
        };
        let weighted = Loss {
            weights: Some(ClassWeights {
                structures: vec![1.0, 2.0, 0.5],
                background: 1.0,
            }),
            ..Loss::default()
        };
        let ignoring = Loss {
            ignore_nan: true,
            ..Loss::default()
        };
        let mut focal = Loss::from(LossConfig::Focal(Default::default()));
        focal.ignore_nan = true;
        for loss in [
            Loss::from(LossConfig::Bce(NoSettings {})),
            Loss::from(LossConfig::Dice(DiceSettings::default())),
            Loss::default(),
            weighted,
            ignoring,
            focal,
            exclusive(LossConfig::CeDice(SumSettings::default())),
            exclusive(LossConfig::Topk(Default::default())),
        ] {
            let target = |m: usize, at: [usize; 3]| match labels[at] {
                3 if loss.ignore_nan => f32::NAN,
                label => f32::from(u8::from(maps[m].contains(&label))),
            };
            let logit = |m: usize, [z, y, x]: [usize; 3]| logits[[m, z, y, x]];
            let batch = Batch {
                input: values(&logit),
                input_shape: shape,
                targets: values(&target),
                targets_shape: shape,
                distances: None,
                whole: shape[0],
            };
            let expected = f64::from(loss.of_logits(batch, &device));
            let found = score(&loss, logits.view(), labels.view(), &maps).loss;
            let error = (found - expected).abs() / expected.max(1.0);
            assert!(error < 2e-6, "{loss:?}: {found} against {expected}");
        }
    }

    #[test]
    fn overlaps_are_counted_per_map() {
        let (mut logits, labels, maps) = case();
        logits.fill(-1.0);
        // All of map 0 is predicted; a quarter of the voxels hold label 1.
        logits.index_axis_mut(Axis(0), 0).fill(1.0);
        let found = score(&Loss::default(), logits.view(), labels.view(), &maps);
        let of = |found: &CaseScore, score: fn(&Overlap) -> Option<f64>| -> Vec<Option<f64>> {
            found.overlaps.iter().map(score).collect()
        };
        assert_eq!(of(&found, Overlap::dice), [Some(0.4), Some(0.0), None]);
        assert_eq!(of(&found, Overlap::iou), [Some(0.25), Some(0.0), None]);
        assert_eq!(of(&found, Overlap::precision), [Some(0.25), None, None]);
        assert_eq!(of(&found, Overlap::recall), [Some(1.0), Some(0.0), None]);
        let expected = [Some(0.25), Some(0.5), Some(1.0)];
        assert_eq!(of(&found, Overlap::accuracy), expected);
        // With label 3 ignored, a third of the remaining voxels hold label 1.
        let ignoring = Loss {
            ignore_nan: true,
            ..Loss::default()
        };
        let found = score(&ignoring, logits.view(), labels.view(), &maps);
        assert_eq!(of(&found, Overlap::dice), [Some(0.5), Some(0.0), None]);
        let right = of(&found, Overlap::accuracy);
        assert_eq!(right, [Some(1.0 / 3.0), Some(2.0 / 3.0), Some(1.0)]);
    }

    #[test]
    fn only_the_largest_of_exclusive_classes_is_predicted() {
        let (mut logits, labels, maps) = case();
        logits.fill(1.0);
        logits.index_axis_mut(Axis(0), 1).fill(2.0);
        let loss = exclusive(LossConfig::CeDice(SumSettings::default()));
        let iou = |loss: &Loss, logits: &Array4<f32>| -> Vec<Option<f64>> {
            let found = score(loss, logits.view(), labels.view(), &maps);
            found.overlaps.iter().map(Overlap::iou).collect()
        };
        // Half of the voxels hold label 2 or 3.
        assert_eq!(iou(&loss, &logits), [Some(0.0), Some(0.5), None]);
        logits.fill(-0.5);
        assert_eq!(iou(&loss, &logits), [Some(0.0), Some(0.0), None]);
        logits.fill(1.0);
        let independent = iou(&Loss::default(), &logits);
        assert_eq!(independent, [Some(0.25), Some(0.5), Some(0.0)]);
    }

    #[test]
    fn scores_do_not_depend_on_threads_and_large_logits_stay_finite() {
        let (logits, labels, maps) = case();
        let logits = logits * 1e5;
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let score = || score(&Loss::default(), logits.view(), labels.view(), &maps);
            pool.build().unwrap().install(score)
        };
        assert!(on(1).loss.is_finite());
        assert_eq!(on(1), on(3));
    }
}
