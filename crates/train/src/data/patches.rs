//! Patches of preprocessed cases, and their collation into batches.

use std::ops::Range;
use std::sync::Arc;

use ndarray::parallel::prelude::*;
use ndarray::{Array2, Array3, Array5, ArrayView3, ArrayViewMut4, Axis, s};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::patch_positions::{PatchRequest, patch_positions};
use ctseg_augment::{Augmentation, Hounsfield, SliceCrop, SliceSource, VolumeCrop, VolumeSource};
use ctseg_core::dataset::prepared_case::PreparedCase;
use ctseg_core::recipe::Recipe;
use ctseg_engine::batch::Batch;
use ctseg_image::preprocess::channels::{neighbour_slices, padded_size};

/// A patch of a preprocessed case: part of one slice, or of the volume.
pub(super) struct Patch {
    case: Arc<PreparedCase>,
    /// First voxel (z, y, x).
    start: [usize; 3],
    /// Size (z, y, x); 1 along z for networks on slices.
    size: [usize; 3],
    /// Seed of the patch's augmentation and prior dropout; 0 if neither is used.
    seed: u64,
}

/// The patches of a case in one visit, see [`patch_positions`].
pub(super) fn patches(
    case: &Arc<PreparedCase>,
    recipe: &Recipe,
    request: &PatchRequest,
    rng: &mut ChaCha8Rng,
) -> Vec<Patch> {
    let (depth, height, width) = case.labels.dim();
    let [z, y, x] = recipe.training.patch_size.zyx();
    let size = [z.min(depth), y.min(height), x.min(width)];
    let augmented = recipe.training.augmentation().is_some() || recipe.jitter.drop_prior > 0.0;
    patch_positions(case, recipe, size, request, rng)
        .into_iter()
        .map(|start| Patch {
            case: Arc::clone(case),
            start,
            size,
            seed: if augmented { rng.random() } else { 0 },
        })
        .collect()
}

/// The label values of each output map, in plain patches and in patches flipped along x.
pub(super) struct OutputMaps {
    pub plain: Vec<Vec<u16>>,
    pub mirrored: Vec<Vec<u16>>,
}

impl OutputMaps {
    fn select(&self, mirrored: bool) -> &[Vec<u16>] {
        match mirrored {
            true => &self.mirrored,
            false => &self.plain,
        }
    }
}

/// Collates the patches of `shard` into a batch, each cropped and augmented on a worker thread. The size is that of the
/// largest of all `patches`, padded to a multiple that the network accepts.
pub(super) fn collate(
    patches: &[Patch],
    shard: Range<usize>,
    recipe: &Recipe,
    maps: &OutputMaps,
) -> Batch {
    let multiple = recipe.network.multiple();
    let flat = recipe.network.dimensions() == 2;
    let [depth, height, width] = [0, 1, 2].map(|axis| {
        let largest = patches.iter().map(|patch| patch.size[axis]).max();
        padded_size(largest.unwrap_or(0), multiple[axis])
    });
    let whole = patches.len();
    let patches = &patches[shard];
    // A 2.5D network labels one slice and takes its neighbours as input as well.
    let (input_slices, target_slices) = match flat {
        true => (2 * recipe.network.neighbours() + 1, 1),
        false => (depth, depth),
    };
    let (channels, structures) = (recipe.channels(), maps.plain.len());
    let mut input = Array5::<f32>::zeros((patches.len(), channels, input_slices, height, width));
    let mut targets =
        Array5::<f32>::zeros((patches.len(), structures, target_slices, height, width));
    input
        .axis_iter_mut(Axis(0))
        .into_par_iter()
        .zip(targets.axis_iter_mut(Axis(0)).into_par_iter())
        .zip(patches.par_iter())
        .for_each(|((mut input, targets), patch)| {
            match recipe.training.augmentation() {
                Some(augmentation) if flat => {
                    patch.fill_augmented(augmentation, recipe, maps, input.view_mut(), targets)
                }
                Some(augmentation) => patch.fill_augmented_volume(
                    augmentation,
                    recipe,
                    maps,
                    input.view_mut(),
                    targets,
                ),
                None => patch.fill(recipe, &maps.plain, input.view_mut(), targets),
            }
            if patch.drops_prior(recipe) {
                input
                    .slice_mut(s![recipe.windows_hu.len().., .., .., ..])
                    .fill(0.0);
            }
        });
    Batch {
        input_shape: [patches.len(), channels, input_slices, height, width],
        targets_shape: [patches.len(), structures, target_slices, height, width],
        input: input.into_raw_vec_and_offset().0,
        targets: targets.into_raw_vec_and_offset().0,
        distances: None,
        whole,
    }
}

/// Random stream of prior dropout, separate from those of augmentation.
const PRIOR_STREAM: u64 = u64::MAX - 1;

impl Patch {
    /// Whether the prior is dropped for this patch, see `jitter.drop_prior`.
    fn drops_prior(&self, recipe: &Recipe) -> bool {
        let share = recipe.jitter.drop_prior;
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(PRIOR_STREAM);
        recipe.prior && share > 0.0 && rng.random::<f64>() < share
    }

    /// Indices of the network's input slices, from the lowest up.
    fn input_slices(&self, recipe: &Recipe) -> Vec<usize> {
        let depth = self.case.channels.len_of(Axis(1));
        let [first, ..] = self.start;
        (first..first + self.size[0])
            .flat_map(|z| neighbour_slices(z, recipe.network.neighbours(), depth))
            .collect()
    }

    /// The network's input slices, each (channel, y, x).
    fn slices(&self, recipe: &Recipe) -> Vec<ArrayView3<'_, f32>> {
        let slices = self.input_slices(recipe).into_iter();
        slices
            .map(|z| self.case.channels.index_axis(Axis(1), z))
            .collect()
    }

    /// Copies the patch without augmentation to the start of `input` (channel, z, y, x) and `targets`
    /// (structure, z, y, x). Padding stays 0.
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
        write_targets(labels, maps, self.case.ignore, part);
    }

    /// Augments a patch of a slice. Where the rotated patch reaches beyond its borders, it is filled from the rest of
    /// the slice.
    fn fill_augmented(
        &self,
        augmentation: &Augmentation,
        recipe: &Recipe,
        maps: &OutputMaps,
        input: ArrayViewMut4<f32>,
        targets: ArrayViewMut4<f32>,
    ) {
        let [spacing_x, spacing_y, _] = recipe.spacing_mm;
        let ([z, y, x], [_, rows, columns]) = (self.start, self.size);
        let crop = SliceCrop {
            corner: [y, x],
            size: [rows, columns],
            spacing_mm: [spacing_y, spacing_x],
            image_channels: recipe.windows_hu.len(),
        };
        let (_, _, height, width) = input.dim();
        let mut labels = Array2::zeros((height, width));
        let hu = self.case.hu.as_ref().map(|hu| {
            let slices = self.input_slices(recipe).into_iter();
            Hounsfield {
                above: slices.map(|z| hu.above.index_axis(Axis(0), z)).collect(),
                zero_hu: hu.zero_hu,
            }
        });
        let source = SliceSource {
            slices: &self.slices(recipe),
            labels: self.case.labels.index_axis(Axis(0), z),
            hu,
            scalings: &self.case.scalings,
        };
        let affine = augmentation.fill(&crop, self.seed, &source, (input, labels.view_mut()));
        let [_, mirrored] = affine.flip;
        write_targets(
            labels.insert_axis(Axis(0)).view(),
            maps.select(mirrored),
            self.case.ignore,
            targets,
        );
    }

    /// As [`Patch::fill_augmented`], for a patch of a volume.
    fn fill_augmented_volume(
        &self,
        augmentation: &Augmentation,
        recipe: &Recipe,
        maps: &OutputMaps,
        input: ArrayViewMut4<f32>,
        targets: ArrayViewMut4<f32>,
    ) {
        let [spacing_x, spacing_y, spacing_z] = recipe.spacing_mm;
        let crop = VolumeCrop {
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
        let affine =
            augmentation.fill_volume(&crop, self.seed, &source, (input, labels.view_mut()));
        let [_, _, mirrored] = affine.flip;
        write_targets(
            labels.view(),
            maps.select(mirrored),
            self.case.ignore,
            targets,
        );
    }
}

/// Writes the targets of each map: 1 for its labels, 0 elsewhere, NaN for ignored voxels. A loss that did not handle
/// ignored voxels would be NaN, never silently wrong. `labels`: (z, y, x); `targets`: (structure, z, y, x).
pub(crate) fn write_targets(
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
