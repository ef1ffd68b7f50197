//! Patches of prepared cases, and batches of them.

use std::ops::Range;
use std::sync::Arc;

use ndarray::parallel::prelude::*;
use ndarray::{Array2, Array3, Array5, ArrayView3, ArrayViewMut4, Axis, s};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::patch_positions::{Wish, starts};
use ctseg_augment::{Augmentation, Cut, Hounsfield, SliceSource, VolumeCut, VolumeSource};
use ctseg_core::dataset::prepared_case::PreparedCase;
use ctseg_core::recipe::Recipe;
use ctseg_engine::batch::Batch;
use ctseg_image::preprocess::channels::{around, padded_size};

/// A part of a prepared case: of one slice, or of the volume.
pub(super) struct Patch {
    case: Arc<PreparedCase>,
    /// First voxel (z, y, x).
    start: [usize; 3],
    /// Sides (z, y, x); 1 along z for a network that works on slices.
    size: [usize; 3],
    /// Decides the patch's augmentation and whether its prior is lost; 0 where nothing is changed.
    seed: u64,
}

/// What a case gives in one visit, see [`starts`].
pub(super) fn patches(
    case: &Arc<PreparedCase>,
    recipe: &Recipe,
    wish: &Wish,
    rng: &mut ChaCha8Rng,
) -> Vec<Patch> {
    let (depth, height, width) = case.labels.dim();
    let [z, y, x] = recipe.training.patch_size.zyx();
    let size = [z.min(depth), y.min(height), x.min(width)];
    let changed = recipe.training.augmentation().is_some() || recipe.jitter.drop_prior > 0.0;
    starts(case, recipe, size, wish, rng)
        .into_iter()
        .map(|start| Patch {
            case: Arc::clone(case),
            start,
            size,
            seed: if changed { rng.random() } else { 0 },
        })
        .collect()
}

/// For each output map the label values that it marks: in patches as they lie, and in those that are
/// mirrored along x.
pub(super) struct Maps {
    pub plain: Vec<Vec<u16>>,
    pub mirrored: Vec<Vec<u16>>,
}

impl Maps {
    fn seen(&self, mirrored: bool) -> &[Vec<u16>] {
        match mirrored {
            true => &self.mirrored,
            false => &self.plain,
        }
    }
}

/// The patches of `share` side by side, each cut (and augmented) on a worker thread, in one size: that of the largest
/// of all `patches` of the batch, padded to what the network takes.
pub(super) fn assembled(
    patches: &[Patch],
    share: Range<usize>,
    recipe: &Recipe,
    maps: &Maps,
) -> Batch {
    let multiple = recipe.network.multiple();
    let flat = recipe.network.dimensions() == 2;
    let [depth, height, width] = [0, 1, 2].map(|axis| {
        let largest = patches.iter().map(|patch| patch.size[axis]).max();
        padded_size(largest.unwrap_or(0), multiple[axis])
    });
    let whole = patches.len();
    let patches = &patches[share];
    // A network that works on slices marks one and sees some more.
    let (seen, marked) = match flat {
        true => (2 * recipe.network.neighbours() + 1, 1),
        false => (depth, depth),
    };
    let (channels, structures) = (recipe.channels(), maps.plain.len());
    let mut input = Array5::<f32>::zeros((patches.len(), channels, seen, height, width));
    let mut targets = Array5::<f32>::zeros((patches.len(), structures, marked, height, width));
    input
        .axis_iter_mut(Axis(0))
        .into_par_iter()
        .zip(targets.axis_iter_mut(Axis(0)).into_par_iter())
        .zip(patches.par_iter())
        .for_each(|((mut input, targets), patch)| {
            match recipe.training.augmentation() {
                Some(changes) if flat => {
                    patch.fill_turned(changes, recipe, maps, input.view_mut(), targets)
                }
                Some(changes) => {
                    patch.fill_turned_volume(changes, recipe, maps, input.view_mut(), targets)
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
        targets_shape: [patches.len(), structures, marked, height, width],
        input: input.into_raw_vec_and_offset().0,
        targets: targets.into_raw_vec_and_offset().0,
        distances: None,
        whole,
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

    /// Which slices the network sees, from the lowest up.
    fn seen(&self, recipe: &Recipe) -> Vec<usize> {
        let depth = self.case.channels.len_of(Axis(1));
        let [first, ..] = self.start;
        (first..first + self.size[0])
            .flat_map(|z| around(z, recipe.network.neighbours(), depth))
            .collect()
    }

    /// The slices that the network sees, each (channel, y, x).
    fn slices(&self, recipe: &Recipe) -> Vec<ArrayView3<'_, f32>> {
        let seen = self.seen(recipe).into_iter();
        seen.map(|z| self.case.channels.index_axis(Axis(1), z))
            .collect()
    }

    /// The patch as it lies in the case, at the low end of `input` (channel, z, y, x) and `targets`
    /// (structure, z, y, x); the rest stays 0: what lies beyond the volume, and background.
    fn fill(
        &self,
        recipe: &Recipe,
        maps: &[Vec<u16>],
        mut input: ArrayViewMut4<f32>,
        mut targets: ArrayViewMut4<f32>,
    ) {
        let ([z, y, x], [deep, rows, columns]) = (self.start, self.size);
        for (at, slice) in self.slices(recipe).iter().enumerate() {
            input
                .slice_mut(s![.., at, ..rows, ..columns])
                .assign(&slice.slice(s![.., y..y + rows, x..x + columns]));
        }
        let labels = (self.case.labels).slice(s![z..z + deep, y..y + rows, x..x + columns]);
        let part = targets.slice_mut(s![.., ..deep, ..rows, ..columns]);
        mark(labels, maps, self.case.ignore, part);
    }

    /// The patch of a slice augmented; where the slice goes on, what is turned in is tissue, up to the last
    /// pixel.
    fn fill_turned(
        &self,
        changes: &Augmentation,
        recipe: &Recipe,
        maps: &Maps,
        input: ArrayViewMut4<f32>,
        targets: ArrayViewMut4<f32>,
    ) {
        let [spacing_x, spacing_y, _] = recipe.spacing_mm;
        let ([z, y, x], [_, rows, columns]) = (self.start, self.size);
        let cut = Cut {
            corner: [y, x],
            size: [rows, columns],
            spacing_mm: [spacing_y, spacing_x],
            image_channels: recipe.windows_hu.len(),
        };
        let (_, _, height, width) = input.dim();
        let mut labels = Array2::zeros((height, width));
        let hu = self.case.hu.as_ref().map(|hu| {
            let seen = self.seen(recipe).into_iter();
            Hounsfield {
                above: seen.map(|z| hu.above.index_axis(Axis(0), z)).collect(),
                zero_hu: hu.zero_hu,
            }
        });
        let source = SliceSource {
            slices: &self.slices(recipe),
            labels: self.case.labels.index_axis(Axis(0), z),
            hu,
            scalings: &self.case.scalings,
        };
        let turn = changes.fill(&cut, self.seed, &source, (input, labels.view_mut()));
        let [_, mirrored] = turn.flip;
        mark(
            labels.insert_axis(Axis(0)).view(),
            maps.seen(mirrored),
            self.case.ignore,
            targets,
        );
    }

    /// The same for a patch of a volume.
    fn fill_turned_volume(
        &self,
        changes: &Augmentation,
        recipe: &Recipe,
        maps: &Maps,
        input: ArrayViewMut4<f32>,
        targets: ArrayViewMut4<f32>,
    ) {
        let [spacing_x, spacing_y, spacing_z] = recipe.spacing_mm;
        let cut = VolumeCut {
            corner: self.start,
            size: self.size,
            spacing_mm: [spacing_z, spacing_y, spacing_x],
            image_channels: recipe.windows_hu.len(),
        };
        let (_, depth, height, width) = input.dim();
        let mut labels = Array3::zeros((depth, height, width));
        let hu = self.case.hu.as_ref();
        let source = VolumeSource {
            channels: self.case.channels.view(),
            labels: self.case.labels.view(),
            hu: hu.map(|hu| Hounsfield {
                above: hu.above.view(),
                zero_hu: hu.zero_hu,
            }),
            scalings: &self.case.scalings,
        };
        let turn = changes.fill_volume(&cut, self.seed, &source, (input, labels.view_mut()));
        let [_, _, mirrored] = turn.flip;
        mark(
            labels.view(),
            maps.seen(mirrored),
            self.case.ignore,
            targets,
        );
    }
}

/// 1 where a label belongs to a map, 0 elsewhere, NaN where it says that nothing is known: a loss that forgot
/// that would be NaN itself, never silently wrong. `labels`: (z, y, x); `targets`: (structure, z, y, x).
pub(crate) fn mark(
    labels: ArrayView3<u16>,
    maps: &[Vec<u16>],
    ignore: Option<u16>,
    mut targets: ArrayViewMut4<f32>,
) {
    for (mut target, values) in targets.axis_iter_mut(Axis(0)).zip(maps) {
        target.zip_mut_with(&labels, |to, label| {
            *to = match Some(*label) == ignore {
                true => f32::NAN,
                false => f32::from(u8::from(values.contains(label))),
            };
        });
    }
}
