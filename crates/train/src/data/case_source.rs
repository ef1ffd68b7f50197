//! Preprocessed cases for the sampler and for validation.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};

use rand_chacha::ChaCha8Rng;

use super::preprocessed_cache::{CacheSession, CaseRequest};
use super::stage_loss::stage_loss;
use ctseg_augment::Augmentation;
use ctseg_base::Result;
use ctseg_base::cancel::check_stop;
use ctseg_base::limits::memory::cache_budget;
use ctseg_core::dataset::prepared_case::{CaseHu, PreparedCase};
use ctseg_core::dataset::{CaseCache, Dataset};
use ctseg_core::inference::coarse_result::StageOneResult;
use ctseg_core::inference::roi::jittered;
use ctseg_core::inference::stage::{network_grid, network_input};
use ctseg_core::recipe::output_maps::{UNION, output_maps};
use ctseg_core::recipe::{Recipe, Region, Target};
use ctseg_engine::losses::Loss;
use ctseg_image::preprocess::channels::relative_hounsfield;
use ctseg_image::preprocess::normalisation::Scaling;
use ctseg_image::resample::{LabelInterpolation, resample_labels};
use ctseg_image::space::{Grid, Orientation, Volume, VoxelBox};

/// Preprocesses a stage's cases for its network. Cases without jitter are kept in memory, within the cache limit.
pub struct CaseSource<'a> {
    pub dataset: &'a Dataset,
    pub recipe: &'a Recipe,
    /// Label values in the order of the network's output maps.
    pub structures: Vec<u16>,
    /// By case index in the dataset; empty for stages that work on whole volumes.
    pub stage_one: BTreeMap<usize, StageOneResult>,
    /// Limit of each of the two in-memory caches.
    cache_bytes: usize,
    /// Once set, no more cases are preprocessed.
    stop: Option<&'a AtomicBool>,
    cache: CaseCache,
    /// Preprocessed cases on disk.
    disk_cache: Option<CacheSession<'a>>,
    /// Bytes used, and preprocessed cases without jitter.
    preprocessed: Mutex<(usize, HashMap<usize, Arc<PreparedCase>>)>,
}

impl<'a> CaseSource<'a> {
    pub fn new(
        dataset: &'a Dataset,
        recipe: &'a Recipe,
        structures: Vec<u16>,
        stage_one: BTreeMap<usize, StageOneResult>,
    ) -> Self {
        let cache_bytes = cache_budget((recipe.training.cache_mb as u64) << 20) as usize / 2;
        Self {
            dataset,
            recipe,
            structures,
            stage_one,
            cache_bytes,
            stop: None,
            cache: CaseCache::new(cache_bytes),
            disk_cache: None,
            preprocessed: Mutex::new((0, HashMap::new())),
        }
    }

    /// Returns [`ctseg_base::Error::Interrupted`] instead of preprocessing a case once `stop` is set.
    pub fn with_stop(self, stop: &'a AtomicBool) -> Self {
        Self {
            stop: Some(stop),
            ..self
        }
    }

    /// Also keeps cases without jitter on disk.
    pub fn with_disk_cache(self, disk_cache: Option<CacheSession<'a>>) -> Self {
        Self { disk_cache, ..self }
    }

    /// The cache of preprocessed cases on disk, if one is used.
    pub fn disk_cache(&self) -> Option<&CacheSession<'a>> {
        self.disk_cache.as_ref()
    }

    /// Number of output maps of the network.
    pub fn outputs(&self) -> usize {
        output_maps(self.recipe, &self.structures).len()
    }

    /// Name of the structure in each output map.
    pub fn output_names(&self) -> Vec<String> {
        let structures = self.dataset.structures.iter();
        match self.recipe.structures {
            Target::Union => vec![UNION.to_owned()],
            Target::Each => structures.map(|s| s.name.clone()).collect(),
        }
    }

    /// The training loss.
    ///
    /// # Errors
    /// See `stage_loss`.
    pub fn loss(&self) -> Result<Loss> {
        stage_loss(self.recipe, self.dataset)
    }

    /// The case with its true region, as used in validation.
    pub fn prepared(&self, case: usize) -> Result<Arc<PreparedCase>> {
        if let Some(kept) = lock(&self.preprocessed).1.get(&case) {
            return Ok(Arc::clone(kept));
        }
        let region = self.stage_one.get(&case).map(|result| result.region);
        let make = || self.prepare(case, region);
        let prepared = Arc::new(match &self.disk_cache {
            Some(disk_cache) => disk_cache.case(&self.request(case), make)?,
            None => make()?,
        });
        let bytes = prepared.bytes();
        let mut kept = lock(&self.preprocessed);
        if kept.0 + bytes <= self.cache_bytes {
            kept.0 += bytes;
            kept.1.insert(case, Arc::clone(&prepared));
        }
        Ok(prepared)
    }

    /// The disk cache request for the case that [`CaseSource::prepared`] returns.
    pub fn request(&self, case: usize) -> CaseRequest<'_> {
        CaseRequest {
            dataset: self.dataset,
            case,
            recipe: self.recipe,
            stage_one: self.stage_one.get(&case),
        }
    }

    /// The case as used in one training epoch: with its region of interest jittered.
    pub(super) fn jittered(&self, case: usize, rng: &mut ChaCha8Rng) -> Result<Arc<PreparedCase>> {
        let no_jitter = self.recipe.jitter.shift_mm == 0.0 && self.recipe.jitter.grow_mm == 0.0;
        match self.stage_one.get(&case) {
            Some(result) if self.recipe.region == Region::Roi && !no_jitter => {
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
            check_stop(stop, || "cases were being preprocessed".to_owned())?;
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
        let Some(reach) = augmentation.and_then(Augmentation::max_hu_change) else {
            return Ok(None);
        };
        let interpolation = self.recipe.interpolation;
        let (zero_hu, above) =
            relative_hounsfield(volume, grid, scalings, reach as f32, interpolation)?;
        Ok(Some(CaseHu { zero_hu, above }))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A panic elsewhere cannot leave the map inconsistent: each update is a single insert.
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
