//! Patches of a sliding window over a whole input, and their blending.

use ndarray::{Array3, Array4, ArrayView4, ArrayViewMut3, Axis, Slice, s};

use crate::recipe::{Blending, Recipe};
use ctseg_image::preprocess::channels::padded_size;
use ctseg_image::preprocess::sliding_window::{importance, importance_sum, patch_starts};

/// The patches that cover an input.
#[derive(Debug, Clone)]
pub struct PatchGrid {
    /// Patch size (z, y, x), a multiple of the network's.
    pub patch: [usize; 3],
    /// First voxels of the patches along z, y, x.
    pub positions: [Vec<usize>; 3],
    /// Weight by position in a patch along z, y, x; the weight of a voxel is their product.
    importance: [Vec<f32>; 3],
    /// Shape of the input, padded to at least one patch.
    pub padded: [usize; 3],
    /// Padding before the input.
    pub pad_before: [usize; 3],
}

impl PatchGrid {
    /// For an input of `shape` (z, y, x).
    pub fn new(recipe: &Recipe, shape: [usize; 3]) -> Self {
        let multiple = recipe.network.multiple();
        let largest = recipe.training.patch_size.zyx();
        let as_nnunet = recipe.nnunet.is_some();
        // nnU-Net's patches always have their full size, and small inputs are centred in one.
        let patch: [usize; 3] = std::array::from_fn(|axis| match as_nnunet {
            true => largest[axis],
            false => padded_size(largest[axis].min(shape[axis]), multiple[axis]),
        });
        let padded: [usize; 3] = std::array::from_fn(|axis| shape[axis].max(patch[axis]));
        let pad_before = std::array::from_fn(|axis| match as_nnunet {
            true => (padded[axis] - shape[axis]) / 2,
            false => 0,
        });
        let config = &recipe.sliding;
        Self {
            patch,
            positions: std::array::from_fn(|axis| {
                patch_starts(padded[axis], patch[axis], config.step)
            }),
            importance: patch.map(|side| match config.blending {
                Blending::Gaussian => importance(side),
                Blending::Constant => vec![1.0; side],
            }),
            padded,
            pad_before,
        }
    }

    pub fn count(&self) -> usize {
        self.positions.iter().map(Vec::len).product()
    }

    /// The first voxels (z, y, x) of all patches, layer by layer along `axis`.
    pub fn corners(&self, axis: usize) -> Vec<[usize; 3]> {
        let [z, y, x] = &self.positions;
        let rows = |z: usize| {
            y.iter()
                .flat_map(move |y| x.iter().map(move |x| [z, *y, *x]))
        };
        let mut corners: Vec<[usize; 3]> = z.iter().flat_map(|z| rows(*z)).collect();
        corners.sort_by_key(|corner| corner[axis]);
        corners
    }

    /// Number of voxels of the planes across `axis` that one layer of patches overlaps.
    pub fn layer_voxels(&self, axis: usize) -> usize {
        let plane: usize = self.padded.iter().product::<usize>() / self.padded[axis];
        plane * self.patch[axis]
    }

    /// Adds patches, weighted by importance, to a plane that they overlap. The order of the patches, and so the
    /// result, does not depend on the number of threads.
    ///
    /// # Shapes
    /// - `plane`: (map, the two other axes), at `index` along `axis`
    /// - `patches`: (map, z, y, x) each
    pub fn add(
        &self,
        mut plane: ArrayViewMut3<f32>,
        axis: usize,
        index: usize,
        patches: &[([usize; 3], ArrayView4<f32>)],
    ) {
        let [b, c] = other_axes(axis);
        for (corner, patch) in patches {
            let Some(place) = index.checked_sub(corner[axis]) else {
                continue;
            };
            if place >= self.patch[axis] {
                continue;
            }
            let at = self.importance[axis][place];
            let from = patch.index_axis(Axis(axis + 1), place);
            let mut to = plane.slice_mut(s![
                ..,
                corner[b]..corner[b] + self.patch[b],
                corner[c]..corner[c] + self.patch[c]
            ]);
            for (mut to, from) in to.outer_iter_mut().zip(from.outer_iter()) {
                let rows = to.outer_iter_mut().zip(from.outer_iter());
                for ((mut to, from), along) in rows.zip(&self.importance[b]) {
                    let factor = at * along;
                    for ((to, from), along) in to.iter_mut().zip(from).zip(&self.importance[c]) {
                        *to += factor * along * from;
                    }
                }
            }
        }
    }

    /// The sum of the importance at every voxel along z, y, x; that of a voxel is their product, because patches lie
    /// on a regular grid.
    pub fn coverage(&self) -> [Vec<f32>; 3] {
        std::array::from_fn(|axis| {
            importance_sum(
                self.padded[axis],
                &self.positions[axis],
                &self.importance[axis],
            )
        })
    }

    /// A batch of patches: (patch, channel, z, y, x), flattened; 0 outside the input.
    ///
    /// # Shapes
    /// `input`: (channel, z, y, x)
    pub fn patches_at(&self, input: ArrayView4<f32>, corners: &[[usize; 3]]) -> Vec<f32> {
        let (channels, depth, height, width) = input.dim();
        let ends = [depth, height, width];
        let size = self.patch;
        let per_patch = channels * size.iter().product::<usize>();
        let mut values = Vec::with_capacity(corners.len() * per_patch);
        for corner in corners {
            let mut patch = Array4::zeros((channels, size[0], size[1], size[2]));
            let (mut from, mut to) = (input.view(), patch.view_mut());
            for axis in 0..3 {
                // The part of the padded input that is not padding.
                let (first, pad_before) = (corner[axis], self.pad_before[axis]);
                let start = first.max(pad_before);
                let end = (first + size[axis]).min(pad_before + ends[axis]).max(start);
                from.slice_axis_inplace(
                    Axis(axis + 1),
                    Slice::from(start - pad_before..end - pad_before),
                );
                to.slice_axis_inplace(Axis(axis + 1), Slice::from(start - first..end - first));
            }
            to.assign(&from);
            values.extend(patch.into_raw_vec_and_offset().0);
        }
        values
    }
}

/// The two other axes of (z, y, x), in order.
pub fn other_axes(axis: usize) -> [usize; 2] {
    match axis {
        0 => [1, 2],
        1 => [0, 2],
        _ => [0, 1],
    }
}

/// Divides a plane by its coverage: `at` across the plane, times those of its axes.
pub fn divide(plane: &mut Array3<f32>, at: f32, along: [&[f32]; 2]) {
    for mut map in plane.outer_iter_mut() {
        for (mut row, first) in map.outer_iter_mut().zip(along[0]) {
            let factor = at * first;
            for (value, second) in row.iter_mut().zip(along[1]) {
                *value /= factor * second;
            }
        }
    }
}
