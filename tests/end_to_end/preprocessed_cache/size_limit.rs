//! The size limit of the cache: which files are evicted, which stay and which are never written.

use super::*;

/// Cases on one grid that differ in one voxel.
fn similar_cases(folder: &Path, count: usize) -> Dataset {
    let mut dataset = Dataset::open(&phantoms(folder, 1, 0)).unwrap();
    let case = dataset.cases.remove(0);
    let mut volume = read_volume(&case.image).unwrap().volume;
    let shape = volume.data.dim();
    for index in 0..count {
        volume.data[[shape.0 / 2, shape.1 / 2, shape.2 / 2]] = 10.0 * index as f32;
        let image = folder.join(format!("{index}.nii"));
        write_volume(&image, &volume, VoxelType::I16).unwrap();
        let id = index.to_string();
        dataset.cases.push(Case {
            id,
            image,
            ..case.clone()
        });
    }
    dataset
}

#[test]
fn the_limit_holds_and_the_least_recently_used_are_evicted() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let dataset = similar_cases(folder.path(), 5);
    let recipe = recipe(&[]);
    let size = {
        let store = PreprocessedCache::new(&folder.path().join("other"), LARGE);
        prepared(&dataset, &recipe, 0, (&store, &Silent));
        let file = entries(&folder.path().join("other")).remove(0);
        fs::metadata(file).unwrap().len()
    };
    let most = size * 5 / 2;
    let store = PreprocessedCache::new(&cache, most);
    // Other files in the folder are not touched.
    fs::create_dir(&cache).unwrap();
    fs::write(cache.join("notes.txt"), vec![0; 10_000_000]).unwrap();
    let (counts, largest) = most_bytes_during(&cache, || {
        [0, 1, 0, 2, 0, 1, 0, 3, 4].map(|case| {
            // Longer than the timestamp resolution of file systems.
            std::thread::sleep(Duration::from_millis(30));
            prepared(&dataset, &recipe, case, (&store, &Silent)).1
        })
    });
    // Two cases fit: 1 is evicted for 2 because 0 was used again, then 2 for 1, and so on.
    let expected = [false, false, true, false, true, false, true, false, false];
    assert_eq!(
        counts,
        expected.map(|found| if found { (1, 0) } else { (0, 1) })
    );
    assert!(largest <= most, "{largest} bytes, at most {most}");
    assert_eq!(bytes_below(&cache), 2 * size);
    assert!(cache.join("notes.txt").exists());

    // The temporary file of a killed process counts, and is removed when space is needed.
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let own = ctseg_base::process::id::ProcessId::current().to_string();
    let dead = own.replace(
        &format!("-{}-", std::process::id()),
        &format!("-{}-", child.id()),
    );
    child.wait().unwrap();
    let temp_file = cache.join(format!(".ctseg-{dead}-abcdef"));
    fs::File::create(&temp_file).unwrap().set_len(most).unwrap();
    prepared(&dataset, &recipe, 0, (&store, &Silent));
    assert!(!temp_file.exists() && bytes_below(&cache) <= most);
}

#[test]
fn a_case_above_the_limit_is_not_cached_and_evicts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let dataset = similar_cases(folder.path(), 2);
    let recipe = recipe(&[]);
    let store = PreprocessedCache::new(&cache, LARGE);
    prepared(&dataset, &recipe, 0, (&store, &Silent));
    let before = entries(&cache);
    assert_eq!(before.len(), 1);
    let (small, warnings) = (PreprocessedCache::new(&cache, 1000), CapturedLog::default());
    for _ in 0..2 {
        prepared(&dataset, &recipe, 1, (&small, &warnings));
    }
    assert_eq!(entries(&cache), before);
    assert_eq!(warnings.warnings().len(), 1, "{:?}", warnings.warnings());
    assert!(
        warnings.warnings()[0].contains("--case-cache-size"),
        "{:?}",
        warnings.warnings()
    );
}

/// The result of `work`, and the peak size of `folder` meanwhile.
fn most_bytes_during<T>(folder: &Path, work: impl FnOnce() -> T) -> (T, u64) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut largest = 0;
            while !over.load(Ordering::Relaxed) {
                largest = largest.max(bytes_below(folder));
                std::thread::sleep(Duration::from_millis(1));
            }
            largest
        });
        let result = work();
        over.store(true, Ordering::Relaxed);
        (result, watcher.join().unwrap())
    })
}

/// Bytes of all entries, including those being written.
fn bytes_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().flatten();
    let ours = entries.filter(|entry| entry.file_name() != "notes.txt");
    ours.filter_map(|entry| Some(entry.metadata().ok()?.len()))
        .sum()
}
