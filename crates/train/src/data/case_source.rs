//! Where the sampler gets its cases from.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};

use rand_chacha::ChaCha8Rng;

use super::preprocessed_cache::{StoreUse, Wanted};
use super::stage_loss::stage_loss;
use ctseg_augment::Augmentation;
use ctseg_base::Result;
use ctseg_base::cancel::unless_stopped;
use ctseg_base::limits::memory::kept_at_most;
use ctseg_core::dataset::prepared_case::{CaseHu, PreparedCase};
use ctseg_core::dataset::{CaseCache, Dataset};
use ctseg_core::inference::coarse_result::StageOneResult;
use ctseg_core::inference::roi::jittered;
use ctseg_core::inference::stage::{network_grid, network_input};
use ctseg_core::recipe::output_maps::{UNION, output_maps};
use ctseg_core::recipe::{Recipe, Region, Target};
use ctseg_engine::losses::Loss;
use ctseg_image::preprocess::channels::hounsfield_from;
use ctseg_image::preprocess::normalisation::Scaling;
use ctseg_image::resample::{LabelInterpolation, resample_labels};
use ctseg_image::space::{Grid, Orientation, Volume, VoxelBox};

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

    /// The same that, once `stop` is set, answers [`ctseg_base::Error::Interrupted`] where it would have to prepare a
    /// case.
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
    /// See `stage_loss`.
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

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A panic elsewhere cannot leave the map half-changed: values are inserted whole.
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
