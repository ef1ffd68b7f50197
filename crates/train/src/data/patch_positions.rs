//! Where patches are cut from a case, in an order from easy to hard where the recipe wants one.

use ndarray::s;
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use ctseg_core::dataset::prepared_case::PreparedCase;
use ctseg_core::recipe::{Recipe, SliceSampling};

/// Of so many places the easiest are taken in the first epochs.
const CANDIDATES: usize = 8;

/// What a case is asked for.
pub(super) struct Wish {
    /// How many patches; none where all that there are are wanted.
    pub count: Option<usize>,
    /// The share of the easiest ones that is drawn from; none where it is all of them.
    pub easiest: Option<f64>,
}

/// First voxels (z, y, x) of the patches of `size` that a case gives in one visit: for a network that works on
/// slices all slices with a structure and a random share of those without, or, balanced, as many as are asked
/// for; of a volume as many patches as are asked for, or as fill it.
pub(super) fn starts(
    case: &PreparedCase,
    recipe: &Recipe,
    size: [usize; 3],
    wish: &Wish,
    rng: &mut ChaCha8Rng,
) -> Vec<[usize; 3]> {
    let training = &recipe.training;
    let flat = recipe.network.dimensions() == 2;
    if flat && training.slice_sampling == SliceSampling::Every {
        let every = every_slice(case, training.empty_slice_share, size, rng);
        return easiest_of(case, size, every, wish.easiest);
    }
    let count = wish.count.unwrap_or_else(|| match flat {
        true => every_slice(case, training.empty_slice_share, size, rng).len(),
        false => case
            .labels
            .len()
            .div_ceil(size.iter().product::<usize>().max(1)),
    });
    let share = training.foreground_share;
    let draw = |rng: &mut ChaCha8Rng| match flat {
        true => slice_start(case, share, size, rng),
        false => volume_start(case, share, size, rng),
    };
    let one = |rng: &mut ChaCha8Rng| {
        let Some(share) = wish.easiest else {
            return draw(rng);
        };
        let candidates = (0..CANDIDATES).map(|_| draw(rng)).collect();
        let easy = easiest_of(case, size, candidates, Some(share));
        easy[rng.random_range(0..easy.len())]
    };
    (0..count).map(|_| one(rng)).collect()
}

/// Those of `starts` whose patches are the easiest, a `share` of them and at least one, from the easiest on;
/// all, as they came, where no share is given. The more of a patch is structure, the easier it is.
fn easiest_of(
    case: &PreparedCase,
    [deep, rows, columns]: [usize; 3],
    starts: Vec<[usize; 3]>,
    share: Option<f64>,
) -> Vec<[usize; 3]> {
    let Some(share) = share else {
        return starts;
    };
    let kept = ((starts.len() as f64 * share).ceil() as usize).clamp(1, starts.len().max(1));
    let mut counted: Vec<(usize, [usize; 3])> = starts
        .into_iter()
        .map(|start @ [z, y, x]| {
            let part = s![z..z + deep, y..y + rows, x..x + columns];
            let labels = case.labels.slice(part).into_iter();
            let structure = labels.filter(|label| case.is_structure(**label));
            (structure.count(), start)
        })
        .collect();
    // Those alike stay in their order: the seed alone decides.
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
    // A slice of which nothing is known teaches nothing.
    let known = (0..depth).filter(|z| index.is_known(*z));
    let (with, mut without): (Vec<usize>, Vec<usize>) = known.partition(|z| index.is_occupied(*z));
    without.shuffle(rng);
    let wanted = (with.len() as f64 * empty_slice_share).ceil() as usize;
    // A case without any structure still teaches what is not one.
    without.truncate(wanted.max(1));
    with.into_iter()
        .chain(without)
        .map(|z| {
            let [y, x] = corner(case, z, [height, width], rng);
            [z, y, x]
        })
        .collect()
}

/// With probability `foreground_share` a slice of a random structure, around a random pixel of it, else any
/// slice; where labels may be unknown, around a pixel that is known.
fn slice_start(
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
    match anchor.or_else(|| index.known_voxel(rng)) {
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

/// With probability `foreground_share` around a random voxel of a random structure, else anywhere; where labels may
/// be unknown, around a voxel that is known (nnU-Net's rule).
fn volume_start(
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
    match middle.or_else(|| index.known_voxel(rng)) {
        Some(middle) => std::array::from_fn(|axis| {
            middle[axis]
                .saturating_sub(size[axis] / 2)
                .min(largest[axis])
        }),
        None => largest.map(|largest| rng.random_range(0..=largest)),
    }
}

/// Where a patch of `size` is cut from a slice: at random, but so that it holds a random pixel of a random
/// structure of the slice if that has one, else one that is known.
fn corner(case: &PreparedCase, z: usize, size: [usize; 2], rng: &mut ChaCha8Rng) -> [usize; 2] {
    let (_, height, width) = case.labels.dim();
    if size == [height, width] {
        return [0, 0];
    }
    let index = case.index();
    let pixel = index.pixel(z, rng);
    match pixel.or_else(|| index.known_pixel(z, rng)) {
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

/// A random start of `size` voxels out of `length` so that they hold the one at `at`.
fn around(at: usize, size: usize, length: usize, rng: &mut ChaCha8Rng) -> usize {
    rng.random_range((at + 1).saturating_sub(size)..=at.min(length - size))
}
