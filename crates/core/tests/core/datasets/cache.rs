//! The cache of loaded cases and its memory limit.

use super::*;

/// Bytes of one case: f32 and u16 for each voxel.
const CASE_BYTES: usize = 4 * 3 * 2 * 6;

fn five_cases() -> (tempfile::TempDir, Dataset) {
    let folder = tempfile::tempdir().unwrap();
    plain(folder.path(), &[&[1], &[2], &[3], &[4], &[5]]);
    let dataset = Dataset::open(folder.path()).unwrap();
    (folder, dataset)
}

fn counts(cache: &CaseCache) -> (u64, u64, u64) {
    let counts = cache.counts();
    (counts.hits, counts.misses, counts.evictions)
}

#[test]
fn the_least_recently_used_is_evicted_and_the_limit_holds() {
    let (_folder, dataset) = five_cases();
    let cache = CaseCache::new(3 * CASE_BYTES + 5);
    let first_label = |index| {
        let case = cache.get(&dataset, index).unwrap();
        assert_eq!(case.bytes(), CASE_BYTES);
        assert_eq!(case.header.grid.shape, SHAPE);
        assert!(cache.bytes() <= 3 * CASE_BYTES);
        case.labels.data[[0, 0, 0]]
    };
    assert_eq!([0, 1, 2].map(first_label), [1, 2, 3]);
    assert_eq!(first_label(0), 1);
    assert_eq!(counts(&cache), (1, 3, 0));
    assert_eq!(first_label(3), 4); // evicts 1
    assert_eq!(first_label(0), 1);
    assert_eq!(counts(&cache), (2, 4, 1));
    assert_eq!(first_label(1), 2); // evicts 2
    assert_eq!(first_label(3), 4);
    assert_eq!(counts(&cache), (3, 5, 2));
    assert_eq!(cache.bytes(), 3 * CASE_BYTES);
    let error = cache.get(&dataset, 5).unwrap_err().to_string();
    assert!(error.contains("no case number 5; it has 5"), "{error}");
}

#[test]
fn a_case_over_the_limit_is_returned_but_not_cached() {
    let (_folder, dataset) = five_cases();
    let cache = CaseCache::new(CASE_BYTES - 1);
    for _ in 0..2 {
        drop(cache.get(&dataset, 0).unwrap());
    }
    assert_eq!((counts(&cache), cache.bytes()), ((0, 2, 0), 0));
    // While it is in use, it is not loaded again.
    let held = cache.get(&dataset, 0).unwrap();
    assert!(Arc::ptr_eq(&held, &cache.get(&dataset, 0).unwrap()));
    assert_eq!(counts(&cache), (1, 3, 0));
}

#[test]
fn many_threads_load_each_case_once() {
    let (_folder, dataset) = five_cases();
    // Also when nothing can be cached: waiting threads get the loaded case.
    for max_bytes in [100 * CASE_BYTES, 0] {
        let cache = CaseCache::new(max_bytes);
        let threads = 8;
        let (start, end) = (Barrier::new(threads), Barrier::new(threads));
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let (cache, dataset, start, end) = (&cache, &dataset, &start, &end);
                scope.spawn(move || {
                    start.wait();
                    let held: Vec<_> = (0..5)
                        .map(|step| cache.get(dataset, (thread + step) % 5).unwrap())
                        .collect();
                    for (step, case) in held.iter().enumerate() {
                        let index = (thread + step) % 5;
                        assert_eq!(usize::from(case.labels.data[[0, 0, 0]]), index + 1);
                    }
                    end.wait();
                });
            }
        });
        assert_eq!(counts(&cache), (35, 5, 0));
        assert_eq!(cache.bytes(), max_bytes.min(5 * CASE_BYTES));
    }
}

#[test]
fn threads_on_a_small_cache_stay_within_the_limit() {
    let (_folder, dataset) = five_cases();
    let cache = CaseCache::new(2 * CASE_BYTES);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (cache, dataset) = (&cache, &dataset);
            scope.spawn(move || {
                for step in 0..200 {
                    let index = (step * 7 + thread * 3 + step / 5) % 5;
                    let case = cache.get(dataset, index).unwrap();
                    assert_eq!(usize::from(case.labels.data[[0, 0, 0]]), index + 1);
                    assert!(cache.bytes() <= 2 * CASE_BYTES);
                }
            });
        }
    });
    let counts = cache.counts();
    assert_eq!(counts.hits + counts.misses, 800);
}

#[test]
fn an_error_is_returned_to_all_threads_and_not_cached() {
    let (folder, dataset) = five_cases();
    let path: PathBuf = folder.path().join("images/c0.nii.gz");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, b"broken").unwrap();
    let cache = CaseCache::new(10 * CASE_BYTES);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!(cache.get(&dataset, 0).is_err()));
        }
    });
    fs::write(&path, whole).unwrap();
    assert!(cache.get(&dataset, 0).is_ok());
}
