//! The mean over the worst voxels.

use burn::tensor::{Tensor, TensorData};

use super::batch_view::{Seen, sum};
use super::cross_entropy;
use crate::distributed::process_group::Gathered;

/// The mean of the `share` of the voxels' cross-entropies that are largest (nnU-Net's `TopKLoss`, there 10 %).
/// Where several are as large as the smallest of them, they share its place. Of voxels that are ignored none
/// counts, so that the share is that of the others.
pub(super) fn topk(seen: &Seen, share: f64) -> Tensor<1> {
    let mut costs = cross_entropy::of_voxels(seen);
    if let Some(weights) = seen.voxel_weights() {
        costs = costs * weights;
    }
    let shape = costs.dims();
    let device = costs.device();
    let Some(worst) = worst_of(&costs, seen, share) else {
        return sum(costs * 0.0);
    };
    let factors = Tensor::<5>::from_data(TensorData::new(worst, shape), &device);
    seen.whole(sum(costs * factors))
}

/// What each voxel's cost is multiplied by: 1 / count for those above the count's smallest, a share of that
/// for those equal to it; none where no voxel counts.
fn worst_of(costs: &Tensor<5>, seen: &Seen, share: f64) -> Option<Vec<f32>> {
    // Which voxels are the worst shows in the whole batch only.
    let whole = |tensor: Tensor<5>| seen.gathered(tensor.into_data().iter::<f32>().collect());
    let Gathered { values, own_place } = whole(costs.clone().detach());
    let counted = match seen.counted() {
        Some(counted) => {
            let counted = whole(counted.clone().expand(costs.dims())).values;
            counted.iter().filter(|c| **c > 0.0).count()
        }
        None => values.len(),
    };
    // As nnU-Net's, rounded down, but never none.
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
    Some(values[own_place].iter().map(factor).collect())
}
