//! Patches of prepared cases, and batches of them.

use std::sync::Arc;

use ndarray::parallel::prelude::*;
use ndarray::{
    Array2, Array4, Array5, ArrayView2, ArrayView3, ArrayViewMut3, ArrayViewMut4, Axis, s,
};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::recipe::Recipe;
use super::sampling::PreparedCase;
use crate::arrays::augmentation::{Augmentation, Cut};
use crate::arrays::preprocess::{around, padded_size};
use crate::tensors::batch::Batch;

/// A slice, or a part of one, of a prepared case.
pub(super) struct Patch {
    case: Arc<PreparedCase>,
    z: usize,
    /// First row and column.
    corner: [usize; 2],
    /// Rows and columns.
    size: [usize; 2],
    /// Decides the patch's augmentation and whether its prior is lost; 0 where nothing is changed.
    seed: u64,
}

/// All slices with a structure and a random share of those without, each cut to the patch size.
pub(super) fn patches(
    case: &Arc<PreparedCase>,
    recipe: &Recipe,
    rng: &mut ChaCha8Rng,
) -> Vec<Patch> {
    let occupied = |z: usize| {
        case.labels
            .index_axis(Axis(0), z)
            .iter()
            .any(|label| *label > 0)
    };
    let (with, mut without): (Vec<usize>, Vec<usize>) =
        (0..case.labels.dim().0).partition(|z| occupied(*z));
    without.shuffle(rng);
    let wanted = (with.len() as f64 * recipe.training.empty_slice_share).ceil() as usize;
    // A case without any structure still teaches what is not one.
    without.truncate(wanted.max(1));
    let size = recipe.training.patch_size;
    let changed = recipe.training.augmentation().is_some() || recipe.jitter.drop_prior > 0.0;
    with.into_iter()
        .chain(without)
        .map(|z| {
            let slice = case.labels.index_axis(Axis(0), z);
            let (height, width) = slice.dim();
            let size = [size[0].min(height), size[1].min(width)];
            Patch {
                case: Arc::clone(case),
                z,
                corner: corner(slice, size, rng),
                size,
                seed: if changed { rng.random() } else { 0 },
            }
        })
        .collect()
}

/// Where a patch of `size` is cut from a slice: at random, but so that it holds a random pixel of a
/// structure if the slice has one.
fn corner(slice: ArrayView2<u16>, size: [usize; 2], rng: &mut ChaCha8Rng) -> [usize; 2] {
    let (height, width) = slice.dim();
    if size == [height, width] {
        return [0, 0];
    }
    let inside: Vec<(usize, usize)> = slice
        .indexed_iter()
        .filter(|(_, label)| **label > 0)
        .map(|(at, _)| at)
        .collect();
    let anchor = (!inside.is_empty()).then(|| inside[rng.random_range(0..inside.len())]);
    let mut draw = |length: usize, size: usize, anchor: Option<usize>| {
        let largest = length - size;
        let (low, high) = match anchor {
            Some(at) => ((at + 1).saturating_sub(size), at.min(largest)),
            None => (0, largest),
        };
        rng.random_range(low..=high)
    };
    [
        draw(height, size[0], anchor.map(|at| at.0)),
        draw(width, size[1], anchor.map(|at| at.1)),
    ]
}

/// For each output map the label values that it marks: in patches as they lie, and in those that are
/// mirrored along x.
pub(super) struct Maps {
    pub plain: Vec<Vec<u16>>,
    pub mirrored: Vec<Vec<u16>>,
}

/// Patches side by side, each cut (and augmented) on a worker thread, in one size: the largest patch's,
/// padded to what the network takes.
pub(super) fn assembled(patches: &[Patch], recipe: &Recipe, maps: &Maps) -> Batch {
    let multiple = recipe.network.multiple();
    let [height, width] = [0, 1].map(|axis| {
        let largest = patches.iter().map(|patch| patch.size[axis]).max();
        padded_size(largest.unwrap_or(0), multiple)
    });
    let channels = recipe.channels();
    let seen = 2 * recipe.network.neighbours() + 1;
    let structures = maps.plain.len();
    let mut input = Array5::<f32>::zeros((patches.len(), channels, seen, height, width));
    let mut targets = Array4::<f32>::zeros((patches.len(), structures, height, width));
    input
        .axis_iter_mut(Axis(0))
        .into_par_iter()
        .zip(targets.axis_iter_mut(Axis(0)).into_par_iter())
        .zip(patches.par_iter())
        .for_each(|((mut input, targets), patch)| {
            match recipe.training.augmentation() {
                Some(augmentation) => {
                    patch.fill_augmented(augmentation, recipe, maps, input.view_mut(), targets)
                }
                None => patch.fill(recipe, &maps.plain, input.view_mut(), targets),
            }
            if patch.loses_prior(recipe) {
                input
                    .slice_mut(s![recipe.windows_hu.len().., .., .., ..])
                    .fill(0.0);
            }
        });
    Batch {
        input_shape: [patches.len(), channels, seen, height, width],
        targets_shape: [patches.len(), structures, 1, height, width],
        input: input.into_raw_vec_and_offset().0,
        targets: targets.into_raw_vec_and_offset().0,
    }
}

/// Sets the draw of a lost prior apart from those of augmentation.
const PRIOR_STREAM: u64 = u64::MAX - 1;

impl Patch {
    /// Whether stage 1 is made to have found nothing here, see `jitter.drop_prior`.
    fn loses_prior(&self, recipe: &Recipe) -> bool {
        let share = recipe.jitter.drop_prior;
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(PRIOR_STREAM);
        recipe.prior && share > 0.0 && rng.random::<f64>() < share
    }

    /// The slices that the network sees, from the lowest up, each (channel, y, x).
    fn slices(&self, recipe: &Recipe) -> Vec<ArrayView3<'_, f32>> {
        let channels = &self.case.channels;
        around(
            self.z,
            recipe.network.neighbours(),
            channels.len_of(Axis(1)),
        )
        .map(|z| channels.index_axis(Axis(1), z))
        .collect()
    }

    /// The patch as it lies in the slices, at the low end of `input` (channel, slice, y, x) and `targets`
    /// (structure, y, x); the rest stays 0, the windows' low end and background.
    fn fill(
        &self,
        recipe: &Recipe,
        maps: &[Vec<u16>],
        mut input: ArrayViewMut4<f32>,
        mut targets: ArrayViewMut3<f32>,
    ) {
        let ([y, x], [rows, columns]) = (self.corner, self.size);
        for (at, slice) in self.slices(recipe).iter().enumerate() {
            input
                .slice_mut(s![.., at, ..rows, ..columns])
                .assign(&slice.slice(s![.., y..y + rows, x..x + columns]));
        }
        let labels = self
            .case
            .labels
            .slice(s![self.z, y..y + rows, x..x + columns]);
        mark(labels, maps, targets.slice_mut(s![.., ..rows, ..columns]));
    }

    /// The patch augmented; where the slice goes on, what is turned in is tissue, up to the last pixel.
    fn fill_augmented(
        &self,
        augmentation: &Augmentation,
        recipe: &Recipe,
        maps: &Maps,
        input: ArrayViewMut4<f32>,
        targets: ArrayViewMut3<f32>,
    ) {
        let [spacing_x, spacing_y, _] = recipe.spacing_mm;
        let cut = Cut {
            corner: self.corner,
            size: self.size,
            spacing_mm: [spacing_y, spacing_x],
            image_channels: recipe.windows_hu.len(),
        };
        let (_, _, height, width) = input.dim();
        let mut labels = Array2::zeros((height, width));
        let from = (
            self.slices(recipe),
            self.case.labels.index_axis(Axis(0), self.z),
        );
        let turn = augmentation.fill(
            &cut,
            self.seed,
            (&from.0, from.1),
            (input, labels.view_mut()),
        );
        let [_, mirrored] = turn.flip;
        let maps = if mirrored {
            &maps.mirrored
        } else {
            &maps.plain
        };
        mark(labels.view(), maps, targets);
    }
}

/// 1 where a label belongs to a map, 0 elsewhere. `labels`: (y, x); `targets`: (structure, y, x).
fn mark(labels: ArrayView2<u16>, maps: &[Vec<u16>], mut targets: ArrayViewMut3<f32>) {
    for (mut target, values) in targets.axis_iter_mut(Axis(0)).zip(maps) {
        target.zip_mut_with(&labels, |to, label| {
            *to = f32::from(u8::from(values.contains(label)));
        });
    }
}
