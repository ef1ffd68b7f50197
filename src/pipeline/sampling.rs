//! Training batches: which slices an epoch shows, in an order that the seed alone decides, prepared on
//! worker threads ahead of the network.

use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex};

use ndarray::{Array3, Array4, ArrayView2, Axis, s};
use rand::Rng;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::dataset::{CaseCache, Dataset};
use super::recipe::{Recipe, Region, Target};
use super::roi::{Prior, jittered};
use super::segmenter::{network_grid, network_input};
use crate::arrays::preprocess::padded_size;
use crate::arrays::resample::{LabelInterpolation, resample_labels};
use crate::error::Result;
use crate::tensors::batch::Batch;
use crate::values::{Orientation, VoxelBox};

/// Cases whose slices are mixed with each other; bounds the memory of an epoch.
const CASES_MIXED: usize = 8;

/// What stage 2 needs to know of a case from a stage-1 model that never saw it.
#[derive(Debug, Clone)]
pub struct StageOneResult {
    pub region: VoxelBox,
    pub prior: Prior,
}

/// A case on the network's grid.
pub struct PreparedCase {
    /// (channel, z, y, x)
    pub channels: Array4<f32>,
    /// (z, y, x)
    pub labels: Array3<u16>,
}

/// Prepares a stage's cases for its network; those that never change are kept, within the cache's bound.
pub struct CaseSource<'a> {
    pub dataset: &'a Dataset,
    pub recipe: &'a Recipe,
    /// Label values in the order of the network's output maps.
    pub structures: Vec<u16>,
    /// By index of the dataset's case; empty for stages that work on whole volumes.
    pub stage_one: BTreeMap<usize, StageOneResult>,
    cache: CaseCache,
    unchanging: Mutex<(usize, HashMap<usize, Arc<PreparedCase>>)>,
}

impl<'a> CaseSource<'a> {
    pub fn new(
        dataset: &'a Dataset,
        recipe: &'a Recipe,
        structures: Vec<u16>,
        stage_one: BTreeMap<usize, StageOneResult>,
    ) -> Self {
        Self {
            dataset,
            recipe,
            structures,
            stage_one,
            cache: CaseCache::new((recipe.training.cache_mb << 20) / 2),
            unchanging: Mutex::new((0, HashMap::new())),
        }
    }

    /// How many maps the network gives.
    pub fn outputs(&self) -> usize {
        output_maps(self.recipe, &self.structures).len()
    }

    /// The case with its true region, as validation sees it.
    pub fn prepared(&self, case: usize) -> Result<Arc<PreparedCase>> {
        if let Some(kept) = lock(&self.unchanging).1.get(&case) {
            return Ok(Arc::clone(kept));
        }
        let region = self.stage_one.get(&case).map(|result| result.region);
        let prepared = Arc::new(self.prepare(case, region)?);
        let bytes = prepared.channels.len() * 4 + prepared.labels.len() * 2;
        let mut kept = lock(&self.unchanging);
        if kept.0 + bytes <= (self.recipe.training.cache_mb << 20) / 2 {
            kept.0 += bytes;
            kept.1.insert(case, Arc::clone(&prepared));
        }
        Ok(prepared)
    }

    /// The case as training sees it in one epoch: with its region of interest shaken.
    fn shaken(&self, case: usize, rng: &mut ChaCha8Rng) -> Result<Arc<PreparedCase>> {
        let still = self.recipe.jitter.shift_mm == 0.0 && self.recipe.jitter.grow_mm == 0.0;
        match self.stage_one.get(&case) {
            Some(result) if self.recipe.region == Region::Roi && !still => {
                let loaded = self.cache.get(self.dataset, case)?;
                let grid = loaded.volume.grid.reoriented(Orientation::RAS);
                let region = jittered(&result.region, &grid, &self.recipe.jitter, rng);
                Ok(Arc::new(self.prepare(case, Some(region))?))
            }
            _ => self.prepared(case),
        }
    }

    fn prepare(&self, case: usize, region: Option<VoxelBox>) -> Result<PreparedCase> {
        let loaded = self.cache.get(self.dataset, case)?;
        let source = loaded.volume.grid;
        let region =
            region.unwrap_or_else(|| VoxelBox::whole(source.reoriented(Orientation::RAS).shape));
        let grid = network_grid(self.recipe, &source, &region);
        let prior = self.stage_one.get(&case).map(|result| &result.prior);
        Ok(PreparedCase {
            channels: network_input(self.recipe, &loaded.volume, &grid, prior)?,
            labels: resample_labels(&loaded.labels, &grid, LabelInterpolation::OneHotLinear)?.data,
        })
    }
}

/// For each output map of the network the label values that it marks.
pub fn output_maps(recipe: &Recipe, structures: &[u16]) -> Vec<Vec<u16>> {
    match recipe.structures {
        Target::Union => vec![structures.to_vec()],
        Target::Each => structures.iter().map(|value| vec![*value]).collect(),
    }
}

/// A slice, or a part of one, of a prepared case.
struct Patch {
    case: Arc<PreparedCase>,
    z: usize,
    /// First row and column.
    corner: [usize; 2],
    /// Rows and columns.
    size: [usize; 2],
}

/// Sends the batches of one epoch, in order, until the receiver hangs up (then false).
///
/// The slices follow from `seed` and `epoch` alone, whatever the number of threads.
pub fn send_epoch(
    source: &CaseSource,
    cases: &[usize],
    seed: u64,
    epoch: usize,
    to: &SyncSender<Result<Option<Batch>>>,
) -> bool {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(epoch as u64 + 1);
    let mut order = cases.to_vec();
    order.shuffle(&mut rng);
    let maps = output_maps(source.recipe, &source.structures);
    let batch_size = source.recipe.training.batch_size;
    let mut waiting: Vec<Patch> = Vec::new();
    let groups = order.chunks(CASES_MIXED);
    let last = groups.len().saturating_sub(1);
    for (index, group) in groups.enumerate() {
        let seeds: Vec<(usize, u64)> = group.iter().map(|case| (*case, rng.random())).collect();
        let prepared: Result<Vec<_>> = seeds
            .into_par_iter()
            .map(|(case, seed)| {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                let prepared = source.shaken(case, &mut rng)?;
                Ok(patches(&prepared, source.recipe, &mut rng))
            })
            .collect();
        match prepared {
            Ok(drawn) => waiting.extend(drawn.into_iter().flatten()),
            Err(error) => {
                let _ = to.send(Err(error));
                return false;
            }
        }
        waiting.shuffle(&mut rng);
        let ready = if index == last {
            waiting.len()
        } else {
            waiting.len() / batch_size * batch_size
        };
        let rest = waiting.split_off(ready);
        for patches in waiting.chunks(batch_size) {
            if to
                .send(Ok(Some(assembled(patches, source.recipe, &maps))))
                .is_err()
            {
                return false;
            }
        }
        waiting = rest;
    }
    to.send(Ok(None)).is_ok()
}

/// All slices with a structure and a random share of those without, each cut to the patch size.
fn patches(case: &Arc<PreparedCase>, recipe: &Recipe, rng: &mut ChaCha8Rng) -> Vec<Patch> {
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

/// Patches side by side, padded with zeros (the windows' low end, background) to one size.
fn assembled(patches: &[Patch], recipe: &Recipe, maps: &[Vec<u16>]) -> Batch {
    let multiple = recipe.network.multiple();
    let largest = |axis: usize| {
        patches
            .iter()
            .map(|patch| patch.size[axis])
            .max()
            .unwrap_or(0)
    };
    let (height, width) = (
        padded_size(largest(0), multiple),
        padded_size(largest(1), multiple),
    );
    let channels = recipe.channels();
    let mut input = Array4::<f32>::zeros((patches.len(), channels, height, width));
    let mut targets = Array4::<f32>::zeros((patches.len(), maps.len(), height, width));
    for (index, patch) in patches.iter().enumerate() {
        let [y, x] = patch.corner;
        let [rows, columns] = patch.size;
        let from = patch
            .case
            .channels
            .slice(s![.., patch.z, y..y + rows, x..x + columns]);
        input
            .slice_mut(s![index, .., ..rows, ..columns])
            .assign(&from);
        let labels = patch
            .case
            .labels
            .slice(s![patch.z, y..y + rows, x..x + columns]);
        for (map, values) in maps.iter().enumerate() {
            targets
                .slice_mut(s![index, map, ..rows, ..columns])
                .zip_mut_with(&labels, |to, label| {
                    *to = f32::from(u8::from(values.contains(label)))
                });
        }
    }
    Batch {
        input_shape: [patches.len(), channels, 1, height, width],
        targets_shape: [patches.len(), maps.len(), 1, height, width],
        input: input.into_raw_vec_and_offset().0,
        targets: targets.into_raw_vec_and_offset().0,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A panic elsewhere cannot leave the map half-changed: values are inserted whole.
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
