//! Patch positions within a case, drawn from the easiest ones first if the recipe sets a curriculum.

use ndarray::s;
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use ctseg_core::dataset::prepared_case::PreparedCase;
use ctseg_core::recipe::{Recipe, SliceSampling};

/// Number of candidate positions from which an easy one is chosen in the first epochs.
const CANDIDATES: usize = 8;

/// The patches requested from a case.
pub(super) struct PatchRequest {
    /// Number of patches; none for all.
    pub count: Option<usize>,
    /// Share of the easiest patches to draw from; none for all.
    pub easiest: Option<f64>,
}

/// First voxels (z, y, x) of the patches of `size` of a case in one visit. Networks on slices: all slices with a
/// structure and a random share of those without or, with balanced sampling, as many as requested. Volumes: as many as
/// requested, or as many as fill the volume.
pub(super) fn patch_positions(
    case: &PreparedCase,
    recipe: &Recipe,
    size: [usize; 3],
    request: &PatchRequest,
    rng: &mut ChaCha8Rng,
) -> Vec<[usize; 3]> {
    let training = &recipe.training;
    let flat = recipe.network.dimensions() == 2;
    if flat && training.slice_sampling == SliceSampling::Every {
        let every = every_slice(case, training.empty_slice_share, size, rng);
        return easiest_of(case, size, every, request.easiest);
    }
    let count = request.count.unwrap_or_else(|| match flat {
        true => every_slice(case, training.empty_slice_share, size, rng).len(),
        false => case
            .labels
            .len()
            .div_ceil(size.iter().product::<usize>().max(1)),
    });
    let share = training.foreground_share;
    let draw = |rng: &mut ChaCha8Rng| match flat {
        true => slice_position(case, share, size, rng),
        false => volume_position(case, share, size, rng),
    };
    let one = |rng: &mut ChaCha8Rng| {
        let Some(share) = request.easiest else {
            return draw(rng);
        };
        let candidates = (0..CANDIDATES).map(|_| draw(rng)).collect();
        let easy = easiest_of(case, size, candidates, Some(share));
        easy[rng.random_range(0..easy.len())]
    };
    (0..count).map(|_| one(rng)).collect()
}

/// The easiest `share` of the positions, at least one, easiest first; all in their order if no share is given. A patch
/// is easier the more structure voxels it holds.
fn easiest_of(
    case: &PreparedCase,
    [deep, rows, columns]: [usize; 3],
    positions: Vec<[usize; 3]>,
    share: Option<f64>,
) -> Vec<[usize; 3]> {
    let Some(share) = share else {
        return positions;
    };
    let kept = ((positions.len() as f64 * share).ceil() as usize).clamp(1, positions.len().max(1));
    let mut counted: Vec<(usize, [usize; 3])> = positions
        .into_iter()
        .map(|start @ [z, y, x]| {
            let part = s![z..z + deep, y..y + rows, x..x + columns];
            let labels = case.labels.slice(part).into_iter();
            let structure = labels.filter(|label| case.is_structure(**label));
            (structure.count(), start)
        })
        .collect();
    // Stable sort: ties keep their order, which depends on the seed alone.
    counted.sort_by_key(|(structure, _)| std::cmp::Reverse(*structure));
    counted.truncate(kept);
    counted.into_iter().map(|(_, start)| start).collect()
}

fn every_slice(
    case: &PreparedCase,
    empty_slice_share: f64,
    [_, height, width]: [usize; 3],
    rng: &mut ChaCha8Rng,
) -> Vec<[usize; 3]> {
    let index = case.index();
    let (depth, ..) = case.labels.dim();
    // Slices without any annotated voxel are skipped.
    let annotated = (0..depth).filter(|z| index.is_annotated(*z));
    let (with, mut without): (Vec<usize>, Vec<usize>) =
        annotated.partition(|z| index.has_structure(*z));
    without.shuffle(rng);
    let wanted = (with.len() as f64 * empty_slice_share).ceil() as usize;
    // A case without structures still contributes one background slice.
    without.truncate(wanted.max(1));
    with.into_iter()
        .chain(without)
        .map(|z| {
            let [y, x] = corner(case, z, [height, width], rng);
            [z, y, x]
        })
        .collect()
}

/// With probability `foreground_share` a patch around a random pixel of a random structure, otherwise in any slice;
/// with ignored labels, around an annotated pixel.
fn slice_position(
    case: &PreparedCase,
    foreground_share: f64,
    [_, height, width]: [usize; 3],
    rng: &mut ChaCha8Rng,
) -> [usize; 3] {
    let (depth, rows, columns) = case.labels.dim();
    let forced = rng.random::<f64>() < foreground_share;
    let index = case.index();
    let anchor = match forced {
        true => index.voxel_of_a_slice(rng),
        false => None,
    };
    match anchor.or_else(|| index.annotated_voxel(rng)) {
        Some([z, y, x]) => [
            z,
            around(y, height, rows, rng),
            around(x, width, columns, rng),
        ],
        None => [
            rng.random_range(0..depth.max(1)),
            rng.random_range(0..=rows - height),
            rng.random_range(0..=columns - width),
        ],
    }
}

/// With probability `foreground_share` around a random voxel of a random structure, otherwise anywhere; with ignored
/// labels, around an annotated voxel (nnU-Net's rule).
fn volume_position(
    case: &PreparedCase,
    foreground_share: f64,
    size: [usize; 3],
    rng: &mut ChaCha8Rng,
) -> [usize; 3] {
    let (depth, height, width) = case.labels.dim();
    let shape = [depth, height, width];
    let largest: [usize; 3] = std::array::from_fn(|axis| shape[axis] - size[axis]);
    let forced = rng.random::<f64>() < foreground_share;
    let index = case.index();
    let middle = match forced {
        true => index.voxel(rng),
        false => None,
    };
    match middle.or_else(|| index.annotated_voxel(rng)) {
        Some(middle) => std::array::from_fn(|axis| {
            middle[axis]
                .saturating_sub(size[axis] / 2)
                .min(largest[axis])
        }),
        None => largest.map(|largest| rng.random_range(0..=largest)),
    }
}

/// A random position of a patch of `size` in a slice that contains a random pixel of a random structure, if the slice
/// has one, otherwise an annotated pixel.
fn corner(case: &PreparedCase, z: usize, size: [usize; 2], rng: &mut ChaCha8Rng) -> [usize; 2] {
    let (_, height, width) = case.labels.dim();
    if size == [height, width] {
        return [0, 0];
    }
    let index = case.index();
    let pixel = index.pixel(z, rng);
    match pixel.or_else(|| index.annotated_pixel(z, rng)) {
        Some([y, x]) => [
            around(y, size[0], height, rng),
            around(x, size[1], width, rng),
        ],
        None => [
            rng.random_range(0..=height - size[0]),
            rng.random_range(0..=width - size[1]),
        ],
    }
}

/// A random start of `size` voxels out of `length` that contain the voxel `at`.
fn around(at: usize, size: usize, length: usize, rng: &mut ChaCha8Rng) -> usize {
    rng.random_range((at + 1).saturating_sub(size)..=at.min(length - size))
}
