//! The loss of a held-out case where it is no sum over voxels: computed as training does, some slices at a
//! time.

use ndarray::{Array5, ArrayView3, ArrayView4, Axis, s};

use crate::data::distance_maps::add_distances;
use crate::data::patches::mark;
use ctseg_base::Result;
use ctseg_core::recipe::Recipe;
use ctseg_engine::batch::Batch;
use ctseg_engine::device::Device;
use ctseg_engine::losses::Loss;

/// No more logits than this at a time: losses need memory for several copies of them.
const MOST_VALUES: usize = 8 << 20;

/// The mean of the loss over the case's slices, as many at a time as the recipe's batches (of volumes: its
/// patches) have, fewer where they are large; a mean of means by how many slices there were.
///
/// # Shapes
/// - `logits`: (map, z, y, x); `labels`: (z, y, x)
pub fn case_loss(scored: &Scored, logits: ArrayView4<f32>, labels: ArrayView3<u16>) -> Result<f64> {
    let (maps, depth, height, width) = logits.dim();
    let flat = scored.recipe.network.dimensions() == 2;
    let wanted = match flat {
        true => scored.recipe.training.batch_size,
        false => scored.recipe.training.patch_size.zyx()[0],
    };
    let affordable = MOST_VALUES / (maps * height * width).max(1);
    let step = wanted.min(affordable).max(1);
    let mut sum = 0.0;
    for first in (0..depth).step_by(step) {
        let slices = first..(first + step).min(depth);
        let count = slices.len();
        let batch = batch_of(
            scored,
            logits.slice(s![.., slices.clone(), .., ..]),
            labels.slice(s![slices, .., ..]),
            flat,
        );
        sum += f64::from(scored.loss.of_logits(batch, scored.device)) * count as f64;
    }
    Ok(sum / depth.max(1) as f64)
}

/// Some slices as a batch: side by side for a network that works on slices, else as one patch. `input` are the
/// logits.
fn batch_of(
    scored: &Scored,
    logits: ArrayView4<f32>,
    labels: ArrayView3<u16>,
    flat: bool,
) -> Batch {
    let (maps, depth, height, width) = logits.dim();
    let mut targets = Array5::<f32>::zeros((1, maps, depth, height, width));
    let to = targets.index_axis_mut(Axis(0), 0);
    mark(labels, scored.maps, scored.ignore, to);
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
    if scored.loss.needs_distances() {
        add_distances(&mut batch, scored.recipe);
    }
    batch
}

/// What a case is scored by.
pub struct Scored<'a> {
    pub recipe: &'a Recipe,
    pub loss: &'a Loss,
    /// The label values of each output map.
    pub maps: &'a [Vec<u16>],
    /// Value of the labels of which nothing is known; they count nothing.
    pub ignore: Option<u16>,
    /// For losses that are no sums over voxels.
    pub device: &'a Device,
}
