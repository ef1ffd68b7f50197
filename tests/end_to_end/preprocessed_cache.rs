//! The cache of preprocessed cases: bit-identical to preprocessing again, never for other data, limited in size.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use crate::common::captured_log::CapturedLog;
use crate::common::runs::entries;
use crate::common::{phantoms, small_recipe};
use ctseg_base::progress::{Observer, Silent};
use ctseg_core::dataset::prepared_case::PreparedCase;
use ctseg_core::dataset::{Case, Dataset, LabelSource};
use ctseg_core::inference::coarse_result::StageOneResult;
use ctseg_core::inference::roi::Prior;
use ctseg_core::recipe::Recipe;
use ctseg_image::nifti::{VoxelType, read_volume, write_volume};
use ctseg_image::space::{Grid, VoxelBox};
use ctseg_train::data::case_source::CaseSource;
use ctseg_train::data::preprocessed_cache::{CaseRequest, Key, PreprocessedCache};
use ndarray::Array3;

mod keys;
mod size_limit;

const LARGE: u64 = 1 << 40;

/// A stage-1 recipe whose cases come with Hounsfield units beyond their windows.
fn recipe(set: &[&str]) -> Recipe {
    let mut all = vec![
        "windows_hu=[[-200, 300], [0, 90]]",
        "training.augmentation={ hu_shift_probability = 0.5, hu_shift = [-30, 30] }",
    ];
    all.extend(set);
    small_recipe("1", &all)
}

/// A case from the cache, and the number of cases read and preprocessed.
fn prepared(
    dataset: &Dataset,
    recipe: &Recipe,
    case: usize,
    (cache, observer): (&PreprocessedCache, &dyn Observer),
) -> (PreparedBits, (u64, u64)) {
    let values = dataset.structures.iter().map(|s| s.value).collect();
    let source = CaseSource::new(dataset, recipe, values, BTreeMap::new());
    let source = source.with_disk_cache(Some(cache.session(observer)));
    let case = source.prepared(case).unwrap();
    (bits(&case), source.disk_cache().unwrap().counts())
}

fn without_cache(dataset: &Dataset, recipe: &Recipe, case: usize) -> PreparedBits {
    let values = dataset.structures.iter().map(|s| s.value).collect();
    let source = CaseSource::new(dataset, recipe, values, BTreeMap::new());
    bits(&source.prepared(case).unwrap())
}

/// All values of a preprocessed case, for bitwise comparison.
type PreparedBits = (
    Vec<usize>,
    Vec<u32>,
    Vec<u16>,
    Option<Vec<u32>>,
    Vec<[u32; 4]>,
    Option<u16>,
);

fn bits(case: &PreparedCase) -> PreparedBits {
    let of_hu = |hu: &ctseg_core::dataset::prepared_case::CaseHu| {
        let zero = std::iter::once(hu.zero_hu.to_bits());
        zero.chain(hu.above.iter().map(|v| v.to_bits())).collect()
    };
    let scalings = case
        .scalings
        .iter()
        .map(|s| [s.window.low_hu, s.window.high_hu, s.mean_hu, s.sd_hu].map(f32::to_bits));
    (
        case.channels.shape().to_vec(),
        case.channels.iter().map(|v| v.to_bits()).collect(),
        case.labels.iter().copied().collect(),
        case.hu.as_ref().map(of_hu),
        scalings.collect(),
        case.ignore,
    )
}

#[test]
fn a_cached_case_is_bit_identical() {
    let folder = tempfile::tempdir().unwrap();
    let mut dataset = Dataset::open(&phantoms(folder.path(), 2, 0)).unwrap();
    dataset.ignore = Some(2);
    for set in [
        &[][..],
        &["normalisation={ kind = 'z_score' }"],
        &[
            "training.augmentation.enabled=false",
            "interpolation=linear",
        ],
    ] {
        let recipe = recipe(set);
        let expected = without_cache(&dataset, &recipe, 1);
        assert!(
            expected.1.iter().any(|bits| *bits != expected.1[0]),
            "a constant case tests nothing"
        );
        assert_eq!(
            expected.3.is_some(),
            !set.contains(&"training.augmentation.enabled=false")
        );
        let cache = folder.path().join("cache");
        for counts in [(0, 1), (1, 0)] {
            // As in another process.
            let store = PreprocessedCache::new(&cache, LARGE);
            let found = prepared(&dataset, &recipe, 1, (&store, &Silent));
            assert!(found.0 == expected, "{set:?} {counts:?}");
            assert_eq!(found.1, counts);
        }
    }
    assert_eq!(entries(&folder.path().join("cache")).len(), 3);
}

#[test]
fn an_entry_of_other_content_is_never_used() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let mut dataset = Dataset::open(&phantoms(folder.path(), 2, 0)).unwrap();
    // Uncompressed, to keep its length.
    let image = folder.path().join("image.nii");
    let mut volume = read_volume(&dataset.cases[0].image).unwrap().volume;
    write_volume(&image, &volume, VoxelType::I16).unwrap();
    dataset.cases[0].image = image.clone();
    let recipe = recipe(&[]);
    let store = PreprocessedCache::new(&cache, LARGE);
    let (before, counts) = prepared(&dataset, &recipe, 0, (&store, &Silent));
    assert_eq!(counts, (0, 1));
    let length = fs::metadata(&image).unwrap().len();

    let shape = volume.data.dim();
    volume.data[[shape.0 / 2, shape.1 / 2, shape.2 / 2]] += 100.0;
    write_volume(&image, &volume, VoxelType::I16).unwrap();
    let later = SystemTime::now() + Duration::from_secs(5);
    fs::File::options()
        .append(true)
        .open(&image)
        .unwrap()
        .set_modified(later)
        .unwrap();
    assert_eq!(fs::metadata(&image).unwrap().len(), length);
    // This process may still hold the old volume in memory: it neither reads nor writes the cache.
    let (now, counts) = prepared(&dataset, &recipe, 0, (&store, &Silent));
    assert!(now != before);
    assert_eq!(counts, (0, 0));
    assert_eq!(entries(&cache).len(), 1);
    // Another process sees the new data.
    let (found, counts) = prepared(
        &dataset,
        &recipe,
        0,
        (&PreprocessedCache::new(&cache, LARGE), &Silent),
    );
    assert!(found == now);
    assert_eq!((counts, entries(&cache).len()), ((0, 1), 2));
}

/// Damaged versions of the file `whole`; `other` is the file of another case.
fn damages(whole: &[u8], other: Vec<u8>) -> Vec<(&'static str, Vec<u8>)> {
    let flipped = |at: usize| {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 4;
        bytes
    };
    // A header with sizes beyond any memory.
    let mut vast = whole.to_vec();
    vast[40..48].copy_from_slice(&(1u64 << 40).to_le_bytes());
    let mut damages = vec![
        ("empty", Vec::new()),
        ("text", b"not a case".to_vec()),
        ("from another case", other),
        ("vast", vast),
        ("longer", [whole, &[0]].concat()),
    ];
    for cut in [5, 40, 60, 100, whole.len() / 2, whole.len() - 1] {
        damages.push(("cut", whole[..cut].to_vec()));
    }
    // In the magic, the key, the shape, the scalings, the channels, the labels and the checksum.
    for at in [
        0,
        20,
        41,
        90,
        whole.len() / 2,
        whole.len() - 40,
        whole.len() - 3,
    ] {
        damages.push(("flipped", flipped(at)));
    }
    damages
}

#[test]
fn damaged_and_foreign_files_are_replaced_with_one_warning() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let dataset = Dataset::open(&phantoms(folder.path(), 3, 0)).unwrap();
    let recipe = recipe(&[]);
    let store = PreprocessedCache::new(&cache, LARGE);
    let expected: Vec<PreparedBits> = (0..3)
        .map(|case| prepared(&dataset, &recipe, case, (&store, &Silent)).0)
        .collect();
    let path = |case| {
        let request = CaseRequest {
            dataset: &dataset,
            case,
            recipe: &recipe,
            stage_one: None,
        };
        store.path(&store.key(&request).unwrap().unwrap())
    };
    let (first, second) = (path(0), path(1));
    let whole = fs::read(&first).unwrap();
    for (what, bytes) in damages(&whole, fs::read(&second).unwrap()) {
        fs::write(&first, &bytes).unwrap();
        fs::write(&second, &bytes[..bytes.len() / 2]).unwrap();
        let warnings = CapturedLog::default();
        let store = PreprocessedCache::new(&cache, LARGE);
        for case in [0, 1, 2] {
            let (found, counts) = prepared(&dataset, &recipe, case, (&store, &warnings));
            assert!(found == expected[case], "{what} {case}");
            assert_eq!(
                counts,
                if case < 2 { (0, 1) } else { (1, 0) },
                "{what} {case}"
            );
        }
        let lines = warnings.warnings();
        assert_eq!(lines.len(), 1, "{what}: {lines:?}");
        assert!(
            lines[0].contains("removed") && lines[0].contains(".case"),
            "{lines:?}"
        );
        assert!(
            fs::read(&first).unwrap() == whole,
            "{what} was not replaced"
        );
    }
    assert_eq!(entries(&cache).len(), 3);
}

#[test]
fn an_unwritable_folder_is_one_warning() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = Dataset::open(&phantoms(folder.path(), 2, 0)).unwrap();
    let recipe = recipe(&[]);
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let (store, warnings) = (
        PreprocessedCache::new(&file.join("cache"), LARGE),
        CapturedLog::default(),
    );
    for case in [0, 1, 0] {
        let (found, counts) = prepared(&dataset, &recipe, case, (&store, &warnings));
        assert!(found == without_cache(&dataset, &recipe, case));
        assert_eq!(counts, (0, 1));
    }
    let lines = warnings.warnings();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains("case cache") && lines[0].contains("is a file"),
        "{lines:?}"
    );
}
