//! The validation loss of a case for losses that are not sums over voxels: computed as in training, a few slices at a
//! time.

use ndarray::{Array5, ArrayView3, ArrayView4, Axis, s};

use crate::data::distance_maps::add_distances;
use crate::data::patches::write_targets;
use ctseg_base::Result;
use ctseg_core::recipe::Recipe;
use ctseg_engine::batch::Batch;
use ctseg_engine::device::Device;
use ctseg_engine::losses::Loss;

/// Maximum number of logits per batch: losses hold several copies of them.
const MAX_LOGITS: usize = 8 << 20;

/// The mean loss over the case's slices, in batches as large as the recipe's batch (for volumes: as deep as its
/// patch), or smaller if memory requires it. Batch means are weighted by the number of slices.
///
/// # Shapes
/// - `logits`: (map, z, y, x); `labels`: (z, y, x)
pub fn case_loss(
    context: &ScoringContext,
    logits: ArrayView4<f32>,
    labels: ArrayView3<u16>,
) -> Result<f64> {
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
        let slices = first..(first + step).min(depth);
        let count = slices.len();
        let batch = batch_of(
            context,
            logits.slice(s![.., slices.clone(), .., ..]),
            labels.slice(s![slices, .., ..]),
            flat,
        );
        sum += f64::from(context.loss.of_logits(batch, context.device)) * count as f64;
    }
    Ok(sum / depth.max(1) as f64)
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
    let (samples, maps, depth, height, width) = logits.dim();
    let shape = [samples, maps, depth, height, width];
    let mut batch = Batch {
        input: logits.iter().copied().collect(),
        input_shape: shape,
        targets: targets.iter().copied().collect(),
        targets_shape: shape,
        distances: None,
        whole: samples,
    };
    if context.loss.needs_distances() {
        add_distances(&mut batch, context.recipe);
    }
    batch
}

/// Everything needed to score a case.
pub struct ScoringContext<'a> {
    pub recipe: &'a Recipe,
    pub loss: &'a Loss,
    /// The label values of each output map.
    pub maps: &'a [Vec<u16>],
    /// The ignore label; its voxels do not count.
    pub ignore: Option<u16>,
    /// Device of losses that are not sums over voxels.
    pub device: &'a Device,
}
