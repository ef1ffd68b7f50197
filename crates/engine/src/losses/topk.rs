//! Top-k loss: the mean over the worst voxels.

use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::batch_view::{BatchView, sum};
use super::cross_entropy;
use super::dice::{DiceSettings, soft_dice};
use super::kind::{LossKind, is_weight};
use crate::distributed::process_group::Gathered;

/// Settings of the top-k loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TopkSettings {
    /// Fraction of the voxels.
    pub share: f64,
    /// Weight of an added Dice loss; 0 disables it.
    pub dice_weight: f64,
}

impl Default for TopkSettings {
    fn default() -> Self {
        Self {
            share: 0.1,
            dice_weight: 0.0,
        }
    }
}

/// The mean of the largest cross-entropies, over a fraction `share` of the voxels (nnU-Net's `TopKLoss`, there 10 %).
/// Ties at the threshold share its weight. Ignored voxels are not part of the total.
fn topk(view: &BatchView, share: f64) -> Tensor<1> {
    let mut costs = cross_entropy::of_voxels(view);
    if let Some(weights) = view.voxel_weights() {
        costs = costs * weights;
    }
    let shape = costs.dims();
    let device = costs.device();
    let Some(worst) = worst_of(&costs, view, share) else {
        return sum(costs * 0.0);
    };
    let factors = Tensor::<5>::from_data(TensorData::new(worst, shape), &device);
    view.all_reduce(sum(costs * factors))
}

/// The weight of each voxel's loss: 1 / count above the threshold, a share of it at the threshold, 0 below. `None` if
/// no voxel counts.
fn worst_of(costs: &Tensor<5>, view: &BatchView, share: f64) -> Option<Vec<f32>> {
    // The threshold depends on the whole batch.
    let whole = |tensor: Tensor<5>| view.all_gather(tensor.into_data().iter::<f32>().collect());
    let Gathered { values, own_range } = whole(costs.clone().detach());
    let counted = match view.mask() {
        Some(counted) => {
            let counted = whole(counted.clone().expand(costs.dims())).values;
            counted.iter().filter(|c| **c > 0.0).count()
        }
        None => values.len(),
    };
    // Rounded down as in nnU-Net, but at least one.
    let wanted = ((counted as f64 * share) as usize).max(1);
    if counted == 0 {
        return None;
    }
    let mut sorted = values.clone();
    let (_, smallest, _) = sorted.select_nth_unstable_by(wanted - 1, |a, b| b.total_cmp(a));
    let smallest = *smallest;
    let (mut above, mut equal) = (0usize, 0usize);
    for value in &values {
        above += usize::from(*value > smallest);
        equal += usize::from(*value == smallest);
    }
    let each = 1.0 / wanted as f32;
    let shared = (wanted - above.min(wanted)) as f32 / equal.max(1) as f32 * each;
    let factor = |value: &f32| match value {
        value if *value > smallest => each,
        value if *value == smallest => shared,
        _ => 0.0,
    };
    Some(values[own_range].iter().map(factor).collect())
}

pub struct Topk;

impl LossKind for Topk {
    type Settings = TopkSettings;

    fn compute(settings: &TopkSettings, view: &BatchView, _: Option<Tensor<5>>) -> Tensor<1> {
        let worst = topk(view, settings.share);
        if settings.dice_weight == 0.0 {
            return worst;
        }
        let dice = soft_dice(view, view.probabilities(), &DiceSettings::default());
        worst + dice * settings.dice_weight
    }

    fn wrong_value(settings: &TopkSettings) -> Option<&'static str> {
        let in_range = settings.share > 0.0 && settings.share <= 1.0;
        (!(in_range && is_weight(settings.dice_weight)))
            .then_some("training.loss.share must lie in (0, 1], and dice_weight must be 0 or more")
    }
}
