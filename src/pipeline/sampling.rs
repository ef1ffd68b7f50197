//! Training batches: which slices an epoch shows, in an order that the seed alone decides, prepared on
//! worker threads ahead of the network.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, OnceLock};

use rand::Rng;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::case_store::{StoreUse, Wanted};
use super::dataset::{CaseCache, Dataset};
use super::distances::add_distances;
use super::guard::unless_stopped;
use super::patches::{Maps, Patch, assembled, patches};
pub use super::prepared_case::{CaseHu, PreparedCase};
use super::recipe::{Recipe, Region, Target};
use super::roi::{Prior, jittered};
use super::segmenter::{network_grid, network_input};
use super::sides::counterparts;
use super::stage_loss::stage_loss;
use super::starts::Wish;
use crate::arrays::augmentation::{Augmentation, FlipAxis};
use crate::arrays::normalisation::Scaling;
use crate::arrays::preprocess::hounsfield_from;
use crate::arrays::resample::{LabelInterpolation, resample_labels};
use crate::error::Result;
use crate::limits::memory::kept_at_most;
use crate::team::Team;
use crate::tensors::batch::Batch;
use crate::tensors::losses::Loss;
use crate::values::{Grid, Orientation, Volume, VoxelBox};

/// Cases whose slices are mixed with each other; bounds the memory of an epoch.
const CASES_MIXED: usize = 8;

/// With a limited epoch, a case that was read gives at least this many slices, if it has them: reading and
/// resampling it must pay. A patch of a volume is work enough.
const SLICES_PER_VISIT: usize = 16;

/// What all structures are called where they count as one.
pub const UNION: &str = "structures";

/// What stage 2 needs to know of a case from a stage-1 model that never saw it.
#[derive(Debug, Clone)]
pub struct StageOneResult {
    pub region: VoxelBox,
    pub prior: Prior,
}

/// Prepares a stage's cases for its network; those that never change are kept, within the cache's bound.
pub struct CaseSource<'a> {
    pub dataset: &'a Dataset,
    pub recipe: &'a Recipe,
    /// Label values in the order of the network's output maps.
    pub structures: Vec<u16>,
    /// By index of the dataset's case; empty for stages that work on whole volumes.
    pub stage_one: BTreeMap<usize, StageOneResult>,
    /// For each of the two that follow.
    cache_bytes: usize,
    /// Once it is set, no case is prepared any more.
    stop: Option<&'a AtomicBool>,
    cache: CaseCache,
    /// Where prepared cases are kept on disk.
    store: Option<StoreUse<'a>>,
    unchanging: Mutex<(usize, HashMap<usize, Arc<PreparedCase>>)>,
}

impl<'a> CaseSource<'a> {
    pub fn new(
        dataset: &'a Dataset,
        recipe: &'a Recipe,
        structures: Vec<u16>,
        stage_one: BTreeMap<usize, StageOneResult>,
    ) -> Self {
        let cache_bytes = kept_at_most((recipe.training.cache_mb as u64) << 20) as usize / 2;
        Self {
            dataset,
            recipe,
            structures,
            stage_one,
            cache_bytes,
            stop: None,
            cache: CaseCache::new(cache_bytes),
            store: None,
            unchanging: Mutex::new((0, HashMap::new())),
        }
    }

    /// The same that, once `stop` is set, answers [`Error::Interrupted`](crate::error::Error) where it would have to
    /// prepare a case.
    pub fn stopped_by(self, stop: &'a AtomicBool) -> Self {
        Self {
            stop: Some(stop),
            ..self
        }
    }

    /// With cases that never change kept on disk too.
    pub fn kept_in(self, store: Option<StoreUse<'a>>) -> Self {
        Self { store, ..self }
    }

    /// Where prepared cases are kept on disk, if they are.
    pub fn store(&self) -> Option<&StoreUse<'a>> {
        self.store.as_ref()
    }

    /// How many maps the network gives.
    pub fn outputs(&self) -> usize {
        output_maps(self.recipe, &self.structures).len()
    }

    /// What each of them marks.
    pub fn output_names(&self) -> Vec<String> {
        let structures = self.dataset.structures.iter();
        match self.recipe.structures {
            Target::Union => vec![UNION.to_owned()],
            Target::Each => structures.map(|s| s.name.clone()).collect(),
        }
    }

    /// What training minimises.
    ///
    /// # Errors
    /// See [`stage_loss`].
    pub fn loss(&self) -> Result<Loss> {
        stage_loss(self.recipe, self.dataset)
    }

    /// The case with its true region, as validation sees it.
    pub fn prepared(&self, case: usize) -> Result<Arc<PreparedCase>> {
        if let Some(kept) = lock(&self.unchanging).1.get(&case) {
            return Ok(Arc::clone(kept));
        }
        let region = self.stage_one.get(&case).map(|result| result.region);
        let make = || self.prepare(case, region);
        let prepared = Arc::new(match &self.store {
            Some(store) => store.case(&self.wanted(case), make)?,
            None => make()?,
        });
        let bytes = prepared.bytes();
        let mut kept = lock(&self.unchanging);
        if kept.0 + bytes <= self.cache_bytes {
            kept.0 += bytes;
            kept.1.insert(case, Arc::clone(&prepared));
        }
        Ok(prepared)
    }

    /// The case with its true region, as [`CaseSource::prepared`] gives it.
    pub fn wanted(&self, case: usize) -> Wanted<'_> {
        Wanted {
            dataset: self.dataset,
            case,
            recipe: self.recipe,
            stage_one: self.stage_one.get(&case),
        }
    }

    /// The case as training sees it in one epoch: with its region of interest shaken.
    pub(super) fn shaken(&self, case: usize, rng: &mut ChaCha8Rng) -> Result<Arc<PreparedCase>> {
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
        if let Some(stop) = self.stop {
            unless_stopped(stop, || "cases were being prepared".to_owned())?;
        }
        let loaded = self.cache.get(self.dataset, case)?;
        let source = loaded.volume.grid;
        let region =
            region.unwrap_or_else(|| VoxelBox::whole(source.reoriented(Orientation::RAS).shape));
        let grid = network_grid(self.recipe, &source, &region);
        let prior = self.stage_one.get(&case).map(|result| &result.prior);
        let scalings = self.recipe.scalings(&loaded.volume);
        Ok(PreparedCase {
            ignore: self.dataset.ignore,
            channels: network_input(self.recipe, &loaded.volume, &grid, prior)?,
            labels: resample_labels(&loaded.labels, &grid, LabelInterpolation::OneHotLinear)?.data,
            hu: self.hounsfield(&loaded.volume, &grid, &scalings)?,
            scalings,
            index: OnceLock::new(),
        })
    }

    fn hounsfield(
        &self,
        volume: &Volume,
        grid: &Grid,
        scalings: &[Scaling],
    ) -> Result<Option<CaseHu>> {
        let augmentation = self.recipe.training.augmentation();
        let Some(reach) = augmentation.and_then(Augmentation::reach_hu) else {
            return Ok(None);
        };
        let interpolation = self.recipe.interpolation;
        let (zero_hu, above) =
            hounsfield_from(volume, grid, scalings, reach as f32, interpolation)?;
        Ok(Some(CaseHu { zero_hu, above }))
    }
}

/// For each output map of the network the label values that it marks.
pub fn output_maps(recipe: &Recipe, structures: &[u16]) -> Vec<Vec<u16>> {
    match recipe.structures {
        Target::Union => vec![structures.to_vec()],
        Target::Each => structures.iter().map(|value| vec![*value]).collect(),
    }
}

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
pub(super) fn send_share(
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

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A panic elsewhere cannot leave the map half-changed: values are inserted whole.
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
