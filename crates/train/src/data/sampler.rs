//! Training batches: which slices an epoch shows, in an order that the seed alone decides, prepared on
//! worker threads ahead of the network.

use std::collections::HashMap;
use std::sync::mpsc::SyncSender;

use rand::Rng;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::case_source::CaseSource;
use super::distance_maps::add_distances;
use super::patch_positions::Wish;
use super::patches::{Maps, Patch, assembled, patches};
use ctseg_augment::FlipAxis;
use ctseg_base::Result;
use ctseg_core::dataset::laterality::counterparts;
use ctseg_core::recipe::Recipe;
use ctseg_core::recipe::output_maps::output_maps;
use ctseg_engine::batch::Batch;
use ctseg_engine::distributed::process_group::Team;

/// Cases whose slices are mixed with each other; bounds the memory of an epoch.
const CASES_MIXED: usize = 8;

/// With a limited epoch, a case that was read gives at least this many slices, if it has them: reading and
/// resampling it must pay. A patch of a volume is work enough.
const SLICES_PER_VISIT: usize = 16;

/// For each output map the label values that it marks in a patch that is mirrored along x; as
/// [`output_maps`] where patches are not.
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

/// Sends the batches of one epoch, in order, until the receiver hangs up (then false).
///
/// The patches follow from `seed` and `epoch` alone, whatever the number of threads.
pub fn send_epoch(
    source: &CaseSource,
    cases: &[usize],
    seed: u64,
    epoch: usize,
    to: &SyncSender<Result<Option<Batch>>>,
) -> bool {
    send_share(source, cases, (seed, epoch), 0, &Team::alone(), to)
}

/// [`send_epoch`] without its first `shown` batches, for a training that goes on within an epoch, and of each batch the
/// share of this process of `team`. Of batches that are too small for all to have a share each process gets all.
pub(crate) fn send_share(
    source: &CaseSource,
    cases: &[usize],
    (seed, epoch): (u64, usize),
    shown: u64,
    team: &Team,
    to: &SyncSender<Result<Option<Batch>>>,
) -> bool {
    let mut left_out = 0;
    let assembly = match Assembly::of(source, team) {
        Ok(assembly) => assembly,
        Err(error) => {
            let _ = to.send(Err(error));
            return false;
        }
    };
    let batch_size = source.recipe.training.batch_size;
    let mut draw = EpochDraw::new(source, cases, seed, epoch);
    let mut waiting: Vec<Patch> = Vec::new();
    loop {
        let over = match draw.next_group() {
            Ok(drawn) => {
                waiting.extend(drawn);
                draw.is_over()
            }
            Err(error) => {
                let _ = to.send(Err(error));
                return false;
            }
        };
        waiting.shuffle(&mut draw.rng);
        let ready = if over {
            waiting.len()
        } else {
            waiting.len() / batch_size * batch_size
        };
        let rest = waiting.split_off(ready);
        for patches in waiting.chunks(batch_size) {
            if left_out < shown {
                left_out += 1;
                continue;
            }
            if to.send(Ok(Some(assembly.batch(patches)))).is_err() {
                return false;
            }
        }
        waiting = rest;
        if over {
            return to.send(Ok(None)).is_ok();
        }
    }
}

/// How patches become batches.
struct Assembly<'a> {
    recipe: &'a Recipe,
    team: &'a Team,
    maps: Maps,
    /// Whether the loss asks for distances.
    distances: bool,
}

impl<'a> Assembly<'a> {
    fn of(source: &CaseSource<'a>, team: &'a Team) -> Result<Self> {
        let mirrored = mirrored_maps(source)?;
        let plain = output_maps(source.recipe, &source.structures);
        Ok(Self {
            recipe: source.recipe,
            team,
            maps: Maps { plain, mirrored },
            distances: source.loss()?.needs_distances(),
        })
    }

    /// This process's share of a batch of `patches`; all of one that is too small for all to have a share.
    fn batch(&self, patches: &[Patch]) -> Batch {
        let share = match patches.len() < self.team.size() {
            true => 0..patches.len(),
            false => self.team.share(patches.len()),
        };
        let mut batch = assembled(patches, share, self.recipe, &self.maps);
        if self.distances {
            add_distances(&mut batch, self.recipe);
        }
        batch
    }
}

/// Draws an epoch's patches, a group of cases at a time. Without a limit every case comes by once and gives
/// all it has. With one the cases come by in turn, each giving a part of its slices that it has not given
/// yet, until there are enough; only when all are used up do they begin anew.
struct EpochDraw<'a> {
    source: &'a CaseSource<'a>,
    rng: ChaCha8Rng,
    order: Vec<usize>,
    /// Position in `order` of the next group.
    next: usize,
    /// How often each case has come by.
    pass: usize,
    /// Patches that the pass has given so far.
    drawn_in_pass: usize,
    /// Each case's own seed, so that it gives the same patches in the same order whenever it comes by.
    seeds: HashMap<usize, u64>,
    /// Patches still to draw; none without a limit.
    left: Option<usize>,
    /// The most patches that a case gives each time.
    quota: usize,
    /// The share of the easiest patches that the epoch shows, where it does not show all.
    easiest: Option<f64>,
}

impl<'a> EpochDraw<'a> {
    fn new(source: &'a CaseSource<'a>, cases: &[usize], seed: u64, epoch: usize) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(epoch as u64 + 1);
        let mut order = cases.to_vec();
        order.shuffle(&mut rng);
        let left = source.recipe.training.patches_per_epoch;
        let least = match source.recipe.network.dimensions() {
            2 => SLICES_PER_VISIT,
            _ => 1,
        };
        let quota = left.map_or(usize::MAX, |patches| {
            patches.div_ceil(order.len().max(1)).max(least)
        });
        Self {
            source,
            rng,
            order,
            next: 0,
            pass: 0,
            drawn_in_pass: 0,
            seeds: HashMap::new(),
            left,
            quota,
            easiest: source.recipe.training.easiest_share(epoch),
        }
    }

    fn is_over(&self) -> bool {
        let all_came_by = self.next >= self.order.len();
        match self.left {
            None => all_came_by,
            // Cases without a single slice would never be enough.
            Some(left) => left == 0 || all_came_by && self.pass == 0 && self.drawn_in_pass == 0,
        }
    }

    /// The patches of the next group of cases; what does not fit into the epoch is left out at random.
    fn next_group(&mut self) -> Result<Vec<Patch>> {
        if self.next >= self.order.len() && !self.order.is_empty() {
            self.begin_pass();
        }
        let end = (self.next + CASES_MIXED).min(self.order.len());
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
        let limited = self.left.is_some();
        let wish = Wish {
            // Volumes give as many patches as are asked for, slices only those that there are.
            count: limited.then(|| quota.saturating_add(skip)),
            easiest: self.easiest,
        };
        let drawn: Result<Vec<Vec<Patch>>> = group
            .into_par_iter()
            .map(|(case, seed)| {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                let prepared = source.shaken(case, &mut rng)?;
                let mut patches = patches(&prepared, source.recipe, &wish, &mut rng);
                if limited {
                    patches.shuffle(&mut rng);
                }
                Ok(patches.into_iter().skip(skip).take(quota).collect())
            })
            .collect();
        let mut drawn: Vec<Patch> = drawn?.into_iter().flatten().collect();
        self.drawn_in_pass += drawn.len();
        if let Some(left) = &mut self.left {
            if drawn.len() > *left {
                drawn.shuffle(&mut self.rng);
                drawn.truncate(*left);
            }
            *left -= drawn.len();
        }
        Ok(drawn)
    }

    fn begin_pass(&mut self) {
        if self.drawn_in_pass == 0 {
            // All slices were shown: begin anew, with other patches.
            self.seeds.clear();
            self.pass = 0;
        } else {
            self.pass += 1;
        }
        self.drawn_in_pass = 0;
        self.next = 0;
    }
}
