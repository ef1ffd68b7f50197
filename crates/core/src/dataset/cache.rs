//! A memory-bounded LRU cache of loaded cases.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use super::{Case, Dataset, LoadedCase};
use ctseg_base::{Error, Result};

/// Loaded cases; the least recently used is evicted first. Shared between threads by reference.
///
/// The cache holds at most `max_bytes` of voxels; evicted cases still in use come on top.
/// A case larger than the limit is returned but not cached.
#[derive(Debug)]
pub struct CaseCache {
    max_bytes: usize,
    state: Mutex<State>,
    /// Signalled when a load ends.
    loaded: Condvar,
}

#[derive(Debug, Default)]
struct State {
    kept: HashMap<Case, Kept>,
    /// Returned and possibly still in use, so that an evicted case is not loaded twice.
    in_use: HashMap<Case, Weak<LoadedCase>>,
    loading: HashMap<Case, Arc<Load>>,
    bytes: usize,
    /// Number of requests so far; orders cases by last use.
    clock: u64,
    counts: CacheCounts,
}

/// A load in progress; set when it succeeds. Waiting threads hold it, so that they get the case
/// even if it is evicted before they wake.
type Load = OnceLock<Arc<LoadedCase>>;

#[derive(Debug)]
struct Kept {
    case: Arc<LoadedCase>,
    last_use: u64,
}

/// Cache statistics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Requests served from memory, including those that waited for another thread's load.
    pub hits: u64,
    /// Requests that read files.
    pub misses: u64,
    /// Cases evicted to stay within the limit.
    pub evictions: u64,
}

impl CaseCache {
    /// An empty cache of at most `max_bytes` of voxels.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            state: Mutex::default(),
            loaded: Condvar::new(),
        }
    }

    /// The case at `index` of `dataset`, from memory or from its files.
    ///
    /// While one thread loads a case, others that request it wait and share the result. Failures are not
    /// cached: the next request tries again. Fails as [`Dataset::load`] does. May be called from rayon workers
    /// because [`Dataset::load`] itself does not use rayon: a worker that waits for its own pool during
    /// a load could steal another request for the same case, and deadlock.
    pub fn get(&self, dataset: &Dataset, index: usize) -> Result<Arc<LoadedCase>> {
        let case = dataset.cases.get(index).ok_or_else(|| {
            Error::invalid(format!(
                "dataset '{}' has no case number {index}; it has {} cases, numbered from 0",
                dataset.name,
                dataset.cases.len()
            ))
        })?;
        if let Some(found) = self.find_or_claim(case) {
            return Ok(found);
        }
        let claim = Claim { cache: self, case };
        let loaded = Arc::new(dataset.load(case)?);
        claim.succeeded(&loaded);
        Ok(loaded)
    }

    /// Bytes of voxels currently cached.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Hits, misses and evictions so far.
    pub fn counts(&self) -> CacheCounts {
        self.lock().counts
    }

    /// The case from memory; `None` means that the calling thread must load it.
    fn find_or_claim(&self, case: &Case) -> Option<Arc<LoadedCase>> {
        let mut state = self.lock();
        loop {
            if let Some(found) = state.find(case, self.max_bytes) {
                state.counts.hits += 1;
                return Some(found);
            }
            let Some(load) = state.loading.get(case).map(Arc::clone) else {
                state.counts.misses += 1;
                state.loading.insert(case.clone(), Arc::default());
                return None;
            };
            while state.is_loading(case, &load) {
                state = self
                    .loaded
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            if let Some(found) = load.get() {
                state.counts.hits += 1;
                return Some(Arc::clone(found));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code below leaves the state inconsistent, so a poisoned lock is safe to use.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Marks a case as being loaded; dropped on success, error or panic, so that no thread waits forever.
struct Claim<'a> {
    cache: &'a CaseCache,
    case: &'a Case,
}

impl Claim<'_> {
    fn succeeded(&self, loaded: &Arc<LoadedCase>) {
        let mut state = self.cache.lock();
        if let Some(load) = state.loading.get(self.case) {
            // Only the claim's holder sets it, so it is empty.
            let _ = load.set(Arc::clone(loaded));
        }
        state.insert(self.case, loaded, self.cache.max_bytes);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.cache.lock().loading.remove(self.case);
        self.cache.loaded.notify_all();
    }
}

impl State {
    fn find(&mut self, case: &Case, max_bytes: usize) -> Option<Arc<LoadedCase>> {
        self.clock += 1;
        if let Some(kept) = self.kept.get_mut(case) {
            kept.last_use = self.clock;
            return Some(Arc::clone(&kept.case));
        }
        let found = self.in_use.get(case)?.upgrade()?;
        self.insert(case, &found, max_bytes);
        Some(found)
    }

    /// Whether this load (not a later one of the same case) is still in progress.
    fn is_loading(&self, case: &Case, load: &Arc<Load>) -> bool {
        self.loading
            .get(case)
            .is_some_and(|current| Arc::ptr_eq(current, load))
    }

    fn insert(&mut self, case: &Case, loaded: &Arc<LoadedCase>, max_bytes: usize) {
        self.in_use.retain(|_, user| user.strong_count() > 0);
        self.in_use.insert(case.clone(), Arc::downgrade(loaded));
        let bytes = loaded.bytes();
        if bytes > max_bytes {
            return;
        }
        // Evict first, so that the limit always holds.
        while self.bytes > max_bytes - bytes {
            let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.last_use);
            let Some(oldest) = oldest.map(|(case, _)| case.clone()) else {
                break;
            };
            if let Some(evicted) = self.kept.remove(&oldest) {
                self.bytes -= evicted.case.bytes();
                self.counts.evictions += 1;
            }
        }
        self.bytes += bytes;
        self.kept.insert(
            case.clone(),
            Kept {
                case: Arc::clone(loaded),
                last_use: self.clock,
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::dataset::LabelSource;
    use ctseg_image::formats::{VolumeHeader, VoxelType};
    use ctseg_image::space::{Grid, LabelMap, Volume};

    #[test]
    fn waiting_threads_get_the_case_even_if_it_is_not_kept() {
        let grid = Grid::with_spacing([2, 2, 2], [1.0; 3]);
        let loaded = Arc::new(LoadedCase {
            volume: Volume {
                grid,
                data: ndarray::Array3::zeros([2, 2, 2]),
            },
            labels: LabelMap::empty(grid),
            header: VolumeHeader::new(grid, VoxelType::I16),
            non_finite: 0,
        });
        let case = Case {
            id: "a".into(),
            patient: "a".into(),
            image: PathBuf::from("a.nii"),
            labels: LabelSource::None,
        };
        // Nothing fits into this cache.
        let cache = CaseCache::new(0);
        assert!(cache.find_or_claim(&case).is_none());
        let claim = Claim {
            cache: &cache,
            case: &case,
        };
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| cache.find_or_claim(&case).is_some());
            while Arc::strong_count(&cache.lock().loading[&case]) < 2 {
                std::thread::yield_now();
            }
            claim.succeeded(&loaded);
            drop(loaded);
            drop(claim);
            assert!(waiting.join().unwrap());
        });
        assert_eq!(
            cache.counts(),
            CacheCounts {
                hits: 1,
                misses: 1,
                evictions: 0
            }
        );
    }
}
