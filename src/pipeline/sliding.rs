//! A network that works on volumes, patch by patch over a whole input: overlapping patches, blended by
//! their importance.

use ndarray::{Array4, ArrayView4, ArrayViewMut4, Axis, Slice, s};

use super::recipe::Recipe;
use crate::arrays::preprocess::padded_size;
use crate::arrays::sliding_window::{covered, importance, starts};
use crate::error::{Error, Result};
use crate::tensors::inference::Inference;

/// Patches next to each other overlap by half (nnU-Net's `tile_step_size`).
const STEP: f64 = 0.5;

/// How patches cover an input.
struct Plan {
    /// Sides of a patch (z, y, x), multiples of the network's.
    patch: [usize; 3],
    /// First voxels along z, y, x.
    starts: [Vec<usize>; 3],
    importance: [Vec<f32>; 3],
    /// Sides of the input, at least those of a patch.
    padded: [usize; 3],
}

impl Plan {
    fn new(recipe: &Recipe, shape: [usize; 3]) -> Self {
        let multiple = recipe.network.multiple();
        let largest = recipe.training.patch_size.zyx();
        let patch: [usize; 3] =
            std::array::from_fn(|axis| padded_size(largest[axis].min(shape[axis]), multiple[axis]));
        let padded: [usize; 3] = std::array::from_fn(|axis| shape[axis].max(patch[axis]));
        Self {
            patch,
            starts: std::array::from_fn(|axis| starts(padded[axis], patch[axis], STEP)),
            importance: patch.map(importance),
            padded,
        }
    }

    fn corners(&self) -> Vec<[usize; 3]> {
        let [z, y, x] = &self.starts;
        let rows = |z: usize| {
            y.iter()
                .flat_map(move |y| x.iter().map(move |x| [z, *y, *x]))
        };
        z.iter().flat_map(|z| rows(*z)).collect()
    }
}

/// How many patches cover an input of `shape` (z, y, x).
pub fn patch_count(recipe: &Recipe, shape: [usize; 3]) -> usize {
    Plan::new(recipe, shape)
        .starts
        .iter()
        .map(Vec::len)
        .product()
}

/// Logits of a whole input, averaged over the networks (or of the one at `only`), and over the patches that
/// see a voxel, weighted by how near it lies to their middle (Isensee et al., nnU-Net, Nature Methods 2021).
/// Patches go through the network in batches of the recipe's size; they are added up in one fixed order.
///
/// # Shapes
/// - `input`: (channel, z, y, x)
/// - output: (structure, z, y, x)
pub fn patch_logits(
    recipe: &Recipe,
    inference: &Inference,
    only: Option<usize>,
    input: ArrayView4<f32>,
    on_patches: &(dyn Fn(usize) + Sync),
) -> Result<Array4<f32>> {
    let (_, depth, height, width) = input.dim();
    let plan = Plan::new(recipe, [depth, height, width]);
    let [z, y, x] = plan.padded;
    let mut sum: Option<Array4<f32>> = None;
    for corners in plan.corners().chunks(recipe.training.batch_size.max(1)) {
        let (values, shape) = inference.logits(
            &patches_at(input, corners, plan.patch),
            [
                corners.len(),
                input.dim().0,
                plan.patch[0],
                plan.patch[1],
                plan.patch[2],
            ],
            only,
        )?;
        let per_patch: usize = shape[1..].iter().product();
        let sum = sum.get_or_insert_with(|| Array4::zeros((shape[1], z, y, x)));
        for (corner, values) in corners.iter().zip(values.chunks_exact(per_patch)) {
            let patch = (shape[1], shape[2], shape[3], shape[4]);
            let patch = ArrayView4::from_shape(patch, values)
                .map_err(|error| Error::invalid(format!("internal: {error}")))?;
            add(sum.view_mut(), *corner, patch, &plan.importance);
        }
        on_patches(corners.len());
    }
    let mut sum = sum.ok_or_else(|| Error::invalid("internal: an input without patches"))?;
    divide(sum.view_mut(), &plan);
    if plan.padded != [depth, height, width] {
        sum = sum.slice(s![.., ..depth, ..height, ..width]).to_owned();
    }
    Ok(sum)
}

/// Patches side by side: (patch, channel, z, y, x), flattened; what lies beyond the input is 0.
fn patches_at(input: ArrayView4<f32>, corners: &[[usize; 3]], size: [usize; 3]) -> Vec<f32> {
    let (channels, depth, height, width) = input.dim();
    let ends = [depth, height, width];
    let mut values = Vec::with_capacity(corners.len() * channels * size.iter().product::<usize>());
    for corner in corners {
        let mut patch = Array4::zeros((channels, size[0], size[1], size[2]));
        let (mut from, mut to) = (input.view(), patch.view_mut());
        for axis in 0..3 {
            let end = (corner[axis] + size[axis]).min(ends[axis]);
            from.slice_axis_inplace(Axis(axis + 1), Slice::from(corner[axis]..end));
            to.slice_axis_inplace(Axis(axis + 1), Slice::from(..end - corner[axis]));
        }
        to.assign(&from);
        values.extend(patch.into_raw_vec_and_offset().0);
    }
    values
}

/// Adds a patch times its importance at `corner`.
fn add(
    mut sum: ArrayViewMut4<f32>,
    [z, y, x]: [usize; 3],
    patch: ArrayView4<f32>,
    [along_z, along_y, along_x]: &[Vec<f32>; 3],
) {
    let (_, depth, height, width) = patch.dim();
    let mut to = sum.slice_mut(s![.., z..z + depth, y..y + height, x..x + width]);
    for (mut to, from) in to.outer_iter_mut().zip(patch.outer_iter()) {
        let planes = to.outer_iter_mut().zip(from.outer_iter()).zip(along_z);
        for ((mut to, from), z) in planes {
            for ((mut to, from), y) in to.outer_iter_mut().zip(from.outer_iter()).zip(along_y) {
                let factor = z * y;
                for ((to, from), x) in to.iter_mut().zip(from).zip(along_x) {
                    *to += factor * x * from;
                }
            }
        }
    }
}

/// Divides every voxel by the importance that was added up there. Patches lie on a lattice, so that this is
/// a product of the axes' sums.
fn divide(mut sum: ArrayViewMut4<f32>, plan: &Plan) {
    let [along_z, along_y, along_x]: [Vec<f32>; 3] = std::array::from_fn(|axis| {
        covered(
            plan.padded[axis],
            &plan.starts[axis],
            &plan.importance[axis],
        )
    });
    for mut volume in sum.outer_iter_mut() {
        for (mut plane, z) in volume.outer_iter_mut().zip(&along_z) {
            for (mut row, y) in plane.outer_iter_mut().zip(&along_y) {
                let factor = z * y;
                for (value, x) in row.iter_mut().zip(&along_x) {
                    *value /= factor * x;
                }
            }
        }
    }
}
