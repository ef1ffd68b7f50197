//! Training batches: selects the patches of an epoch, in an order that depends on the seed alone, and prepares batches
//! on worker threads ahead of the network.

use std::collections::HashMap;
use std::sync::mpsc::SyncSender;

use rand::Rng;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::case_source::CaseSource;
use super::distance_maps::add_distances;
use super::patch_positions::PatchRequest;
use super::patches::{OutputMaps, Patch, collate, patches};
use ctseg_augment::FlipAxis;
use ctseg_base::Result;
use ctseg_core::dataset::laterality::counterparts;
use ctseg_core::recipe::Recipe;
use ctseg_core::recipe::output_maps::output_maps;
use ctseg_engine::batch::Batch;
use ctseg_engine::distributed::process_group::ProcessGroup;

/// Number of cases whose patches are shuffled together; limits the memory of an epoch.
const GROUP_CASES: usize = 8;

/// In an epoch of limited length, a loaded case contributes at least this many slices, if it has them, to be worth
/// reading and resampling. For volumes one patch is enough.
const MIN_SLICES_PER_VISIT: usize = 16;

/// The label values of each output map in a patch flipped along x; as [`output_maps`] if x is not flipped.
///
/// # Errors
/// See [`counterparts`].
pub fn mirrored_maps(source: &CaseSource) -> Result<Vec<Vec<u16>>> {
    let maps = output_maps(source.recipe, &source.structures);
    let Some(augmentation) = source.recipe.training.augmentation() else {
        return Ok(maps);
    };
    if !augmentation.flip_axes.contains(&FlipAxis::X) {
        return Ok(maps);
    }
    let pairs = counterparts(&source.dataset.structures, &augmentation.mirror_pairs)?;
    let other = |value: u16| pairs.get(&value).copied().unwrap_or(value);
    let mirrored = maps
        .into_iter()
        .map(|values| values.into_iter().map(other).collect());
    Ok(mirrored.collect())
}

/// Sends the batches of one epoch in order. Returns false if the receiver hung up.
///
/// The patches depend on `seed` and `epoch` alone, not on the number of threads.
pub fn send_epoch(
    source: &CaseSource,
    cases: &[usize],
    seed: u64,
    epoch: usize,
    to: &SyncSender<Result<Option<Batch>>>,
) -> bool {
    send_shards(source, cases, (seed, epoch), 0, &ProcessGroup::single(), to)
}

/// As [`send_epoch`], without the first `skip` batches (to resume within an epoch), and only this rank's shard of each
/// batch. A batch with fewer patches than ranks goes to every rank whole.
pub(crate) fn send_shards(
    source: &CaseSource,
    cases: &[usize],
    (seed, epoch): (u64, usize),
    skip: u64,
    group: &ProcessGroup,
    to: &SyncSender<Result<Option<Batch>>>,
) -> bool {
    let mut skipped = 0;
    let collator = match Collator::of(source, group) {
        Ok(collator) => collator,
        Err(error) => {
            let _ = to.send(Err(error));
            return false;
        }
    };
    let batch_size = source.recipe.training.batch_size;
    let mut sampler = EpochSampler::new(source, cases, seed, epoch);
    let mut pending: Vec<Patch> = Vec::new();
    loop {
        let done = match sampler.next_group() {
            Ok(drawn) => {
                pending.extend(drawn);
                sampler.is_done()
            }
            Err(error) => {
                let _ = to.send(Err(error));
                return false;
            }
        };
        pending.shuffle(&mut sampler.rng);
        let ready = if done {
            pending.len()
        } else {
            pending.len() / batch_size * batch_size
        };
        let rest = pending.split_off(ready);
        for patches in pending.chunks(batch_size) {
            if skipped < skip {
                skipped += 1;
                continue;
            }
            if to.send(Ok(Some(collator.batch(patches)))).is_err() {
                return false;
            }
        }
        pending = rest;
        if done {
            return to.send(Ok(None)).is_ok();
        }
    }
}

/// Collates patches into batches.
struct Collator<'a> {
    recipe: &'a Recipe,
    group: &'a ProcessGroup,
    maps: OutputMaps,
    /// Whether the loss needs distance maps.
    distances: bool,
}

impl<'a> Collator<'a> {
    fn of(source: &CaseSource<'a>, group: &'a ProcessGroup) -> Result<Self> {
        let mirrored = mirrored_maps(source)?;
        let plain = output_maps(source.recipe, &source.structures);
        Ok(Self {
            recipe: source.recipe,
            group,
            maps: OutputMaps { plain, mirrored },
            distances: source.loss()?.needs_distances(),
        })
    }

    /// This rank's shard of a batch of `patches`; the whole batch if it has fewer patches than there are ranks.
    fn batch(&self, patches: &[Patch]) -> Batch {
        let shard = match patches.len() < self.group.size() {
            true => 0..patches.len(),
            false => self.group.shard(patches.len()),
        };
        let mut batch = collate(patches, shard, self.recipe, &self.maps);
        if self.distances {
            add_distances(&mut batch, self.recipe);
        }
        batch
    }
}

/// Draws an epoch's patches, one group of cases at a time. Without a limit every case is visited once and contributes
/// all its patches. With a limit the cases are visited in turn, each contributing patches that it has not contributed
/// yet, until there are enough; once all are used up, new patches are drawn.
struct EpochSampler<'a> {
    source: &'a CaseSource<'a>,
    rng: ChaCha8Rng,
    order: Vec<usize>,
    /// Position in `order` of the next group.
    next: usize,
    /// Number of completed passes over the cases since patches were last redrawn.
    pass: usize,
    /// Patches drawn so far in this pass.
    drawn_in_pass: usize,
    /// Seed of each case, so that every visit yields the same patches in the same order.
    seeds: HashMap<usize, u64>,
    /// Number of patches still to draw; none without a limit.
    remaining: Option<usize>,
    /// Maximum number of patches per visit to a case.
    quota: usize,
    /// Share of the easiest patches to draw from (curriculum); none for all patches.
    easiest: Option<f64>,
}

impl<'a> EpochSampler<'a> {
    fn new(source: &'a CaseSource<'a>, cases: &[usize], seed: u64, epoch: usize) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(epoch as u64 + 1);
        let mut order = cases.to_vec();
        order.shuffle(&mut rng);
        let remaining = source.recipe.training.patches_per_epoch;
        let min_per_visit = match source.recipe.network.dimensions() {
            2 => MIN_SLICES_PER_VISIT,
            _ => 1,
        };
        let quota = remaining.map_or(usize::MAX, |patches| {
            patches.div_ceil(order.len().max(1)).max(min_per_visit)
        });
        Self {
            source,
            rng,
            order,
            next: 0,
            pass: 0,
            drawn_in_pass: 0,
            seeds: HashMap::new(),
            remaining,
            quota,
            easiest: source.recipe.training.easiest_share(epoch),
        }
    }

    fn is_done(&self) -> bool {
        let all_visited = self.next >= self.order.len();
        match self.remaining {
            None => all_visited,
            // If no case has a single patch, the limit is never reached.
            Some(remaining) => {
                remaining == 0 || all_visited && self.pass == 0 && self.drawn_in_pass == 0
            }
        }
    }

    /// The patches of the next group of cases; patches beyond the limit are dropped at random.
    fn next_group(&mut self) -> Result<Vec<Patch>> {
        if self.next >= self.order.len() && !self.order.is_empty() {
            self.start_pass();
        }
        let end = (self.next + GROUP_CASES).min(self.order.len());
        let group: Vec<(usize, u64)> = self.order[self.next..end]
            .iter()
            .map(|case| {
                let seed = self.seeds.entry(*case).or_insert_with(|| self.rng.random());
                (*case, *seed)
            })
            .collect();
        self.next = end;
        let (source, skip, quota) = (
            self.source,
            self.pass.saturating_mul(self.quota),
            self.quota,
        );
        let limited = self.remaining.is_some();
        let request = PatchRequest {
            // Volumes yield as many patches as requested, slices only as many as there are.
            count: limited.then(|| quota.saturating_add(skip)),
            easiest: self.easiest,
        };
        let drawn: Result<Vec<Vec<Patch>>> = group
            .into_par_iter()
            .map(|(case, seed)| {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                let prepared = source.jittered(case, &mut rng)?;
                let mut patches = patches(&prepared, source.recipe, &request, &mut rng);
                if limited {
                    patches.shuffle(&mut rng);
                }
                Ok(patches.into_iter().skip(skip).take(quota).collect())
            })
            .collect();
        let mut drawn: Vec<Patch> = drawn?.into_iter().flatten().collect();
        self.drawn_in_pass += drawn.len();
        if let Some(remaining) = &mut self.remaining {
            if drawn.len() > *remaining {
                drawn.shuffle(&mut self.rng);
                drawn.truncate(*remaining);
            }
            *remaining -= drawn.len();
        }
        Ok(drawn)
    }

    fn start_pass(&mut self) {
        if self.drawn_in_pass == 0 {
            // All patches were used: redraw with new seeds.
            self.seeds.clear();
            self.pass = 0;
        } else {
            self.pass += 1;
        }
        self.drawn_in_pass = 0;
        self.next = 0;
    }
}
