//! Prepared cases kept on disk: the same bits as prepared anew, never those of other data, within a bound, shared.

use crate::common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use crate::common::{phantoms, small_recipe};
use ctseg_base::progress::{Observer, Silent, Task};
use ctseg_core::dataset::prepared_case::PreparedCase;
use ctseg_core::dataset::{Case, Dataset, LabelSource};
use ctseg_core::inference::coarse_result::StageOneResult;
use ctseg_core::inference::roi::Prior;
use ctseg_core::recipe::Recipe;
use ctseg_image::nifti::{VoxelType, read_volume, write_volume};
use ctseg_image::space::{Grid, VoxelBox};
use ctseg_train::data::case_source::CaseSource;
use ctseg_train::data::preprocessed_cache::{CaseStore, Key, Wanted};
use ndarray::Array3;

const LARGE: u64 = 1 << 40;

/// Remembers warnings.
#[derive(Default)]
struct Warned(Mutex<Vec<String>>);

impl Observer for Warned {
    fn say(&self, _: &str) {}

    fn warn(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }

    fn task(&self, name: &str, total: u64, unit: &'static str) -> Box<dyn Task> {
        Silent.task(name, total, unit)
    }
}

impl Warned {
    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// A stage-1 recipe whose cases come with Hounsfield units beyond their windows.
fn recipe(set: &[&str]) -> Recipe {
    let mut all = vec![
        "windows_hu=[[-200, 300], [0, 90]]",
        "training.augmentation={ hu_shift_probability = 0.5, hu_shift = [-30, 30] }",
    ];
    all.extend(set);
    small_recipe("1", &all)
}

/// A case from `store`, and how many were found there and made.
fn prepared(
    dataset: &Dataset,
    recipe: &Recipe,
    case: usize,
    (store, observer): (&CaseStore, &dyn Observer),
) -> (PreparedBits, (u64, u64)) {
    let values = dataset.structures.iter().map(|s| s.value).collect();
    let source = CaseSource::new(dataset, recipe, values, BTreeMap::new());
    let source = source.kept_in(Some(store.used_by(observer)));
    let case = source.prepared(case).unwrap();
    (bits(&case), source.store().unwrap().counts())
}

/// The case as it is without a store.
fn made(dataset: &Dataset, recipe: &Recipe, case: usize) -> PreparedBits {
    let values = dataset.structures.iter().map(|s| s.value).collect();
    let source = CaseSource::new(dataset, recipe, values, BTreeMap::new());
    bits(&source.prepared(case).unwrap())
}

/// Everything of a prepared case, to be compared to the bit.
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

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut entries: Vec<PathBuf> = entries.collect();
    entries.sort();
    entries
}

#[test]
fn a_kept_case_has_the_bits_of_a_made_one() {
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
        let expected = made(&dataset, &recipe, 1);
        assert!(
            expected.1.iter().any(|bits| *bits != expected.1[0]),
            "an empty case shows nothing"
        );
        assert_eq!(
            expected.3.is_some(),
            !set.contains(&"training.augmentation.enabled=false")
        );
        let cache = folder.path().join("cache");
        for counts in [(0, 1), (1, 0)] {
            // As another process would.
            let store = CaseStore::new(&cache, LARGE);
            let found = prepared(&dataset, &recipe, 1, (&store, &Silent));
            assert!(found.0 == expected, "{set:?} {counts:?}");
            assert_eq!(found.1, counts);
        }
    }
    assert_eq!(entries(&folder.path().join("cache")).len(), 3);
}

/// A result of stage 1 with a prior of its own.
fn stage_one(value: f32, shape: [usize; 3], end: usize) -> StageOneResult {
    let grid = Grid::with_spacing(shape, [6.0; 3]);
    let [z, y, x] = grid.shape_zyx();
    StageOneResult {
        region: VoxelBox {
            start: [1, 2, 3],
            end: [20, 21, end],
        },
        prior: Prior::new(grid, Array3::from_elem((z, y, x), value).view()),
    }
}

#[test]
fn keys_follow_from_all_that_cases_follow_from_and_from_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = Dataset::open(&phantoms(folder.path(), 2, 0)).unwrap();
    let key_of = |dataset: &Dataset, recipe: &Recipe, result: Option<&StageOneResult>| -> Key {
        let store = CaseStore::new(&folder.path().join("cache"), LARGE);
        let wanted = Wanted {
            dataset,
            case: 0,
            recipe,
            stage_one: result,
        };
        store.key(&wanted).unwrap().unwrap()
    };
    let plain = recipe(&[]);
    let own = key_of(&dataset, &plain, None);
    let mut seen: Vec<(String, Key)> = vec![("plain".to_owned(), own)];
    let mut differs = |what: String, key: Key| {
        for (other, known) in &seen {
            assert!(key != *known, "{what} has the key of {other}");
        }
        seen.push((what, key));
    };
    for set in [
        "spacing_mm=[14.0, 14.0, 14.000000000000002]",
        "spacing_mm=[13.0, 14.0, 14.0]",
        "interpolation=linear",
        "interpolation=nearest",
        "windows_hu=[[-200, 300]]",
        "windows_hu=[[0, 90], [-200, 300]]",
        "windows_hu=[[-200, 300], [0, 91]]",
        "normalisation={ kind = 'z_score' }",
        "normalisation={ kind = 'ct', mean_hu = 50, sd_hu = 120 }",
        "normalisation={ kind = 'ct', mean_hu = 50, sd_hu = 121 }",
        "normalisation={ kind = 'ct', mean_hu = 51, sd_hu = 120 }",
        "training.augmentation.hu_shift=[-30, 31]",
        "training.augmentation.metal_probability=0.1",
        "training.augmentation.hu_shift_probability=0",
    ] {
        differs(set.to_owned(), key_of(&dataset, &recipe(&[set]), None));
    }
    let mut ignoring = dataset.clone();
    ignoring.ignore = Some(3);
    differs("ignore".to_owned(), key_of(&ignoring, &plain, None));
    let (image, labels) = (dataset.cases[0].image.clone(), map_of(&dataset, 0));
    for masks in [&[1u16][..], &[2], &[1, 2]] {
        let mut of_masks = dataset.clone();
        let files = masks.iter().map(|value| (*value, labels.clone())).collect();
        of_masks.cases[0].labels = LabelSource::PerStructure(files);
        differs(format!("masks {masks:?}"), key_of(&of_masks, &plain, None));
    }
    let mut swapped = dataset.clone();
    swapped.cases[0].image = dataset.cases[1].image.clone();
    differs("another image".to_owned(), key_of(&swapped, &plain, None));
    swapped.cases[0].image = image;
    swapped.cases[0].labels = dataset.cases[1].labels.clone();
    differs("other labels".to_owned(), key_of(&swapped, &plain, None));

    let without = small_recipe("refine", &["prior=false"]);
    let with = small_recipe("refine", &["prior=true"]);
    let mut of = |what: &str, recipe: &Recipe, result: &StageOneResult| {
        let key = key_of(&dataset, recipe, Some(result));
        differs(what.to_owned(), key);
        key
    };
    let first = of("a region", &without, &stage_one(0.5, [4, 5, 6], 22));
    of("another region", &without, &stage_one(0.5, [4, 5, 6], 23));
    of("a prior", &with, &stage_one(0.5, [4, 5, 6], 22));
    of("another prior", &with, &stage_one(0.6, [4, 5, 6], 22));
    of(
        "another prior's grid",
        &with,
        &stage_one(0.5, [6, 5, 4], 22),
    );
    // A prior that no channel shows.
    let unseen = stage_one(0.6, [4, 5, 6], 22);
    assert!(key_of(&dataset, &without, Some(&unseen)) == first);

    for set in [
        "name=other",
        "folds=3",
        "out_of_fold=false",
        "training.epochs=7",
        "training.batch_size=3",
        "training.optimiser.learning_rate=0.5",
        "training.loss=dice",
        "training.patch_size=[16, 16]",
        "training.cache_mb=1",
        "training.augmentation.rotation_degrees=40",
        "training.augmentation.noise_probability=1",
        "network.widths=[8, 16, 32]",
    ] {
        assert!(key_of(&dataset, &recipe(&[set]), None) == own, "{set}");
    }
    // The same files elsewhere, written at another time.
    let elsewhere = folder.path().join("elsewhere");
    let mut moved = dataset.clone();
    fs::create_dir(&elsewhere).unwrap();
    for (from, name) in [(&dataset.cases[0].image, "i.nii.gz"), (&labels, "l.nii.gz")] {
        fs::copy(from, elsewhere.join(name)).unwrap();
    }
    moved.cases[0].id = "another name".to_owned();
    moved.cases[0].image = elsewhere.join("i.nii.gz");
    moved.cases[0].labels = LabelSource::Map(elsewhere.join("l.nii.gz"));
    assert!(key_of(&moved, &plain, None) == own);
}

fn map_of(dataset: &Dataset, case: usize) -> PathBuf {
    match &dataset.cases[case].labels {
        LabelSource::Map(path) => path.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_entry_of_other_content_is_never_taken() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let mut dataset = Dataset::open(&phantoms(folder.path(), 2, 0)).unwrap();
    // Uncompressed, so that its length stays.
    let image = folder.path().join("image.nii");
    let mut volume = read_volume(&dataset.cases[0].image).unwrap().volume;
    write_volume(&image, &volume, VoxelType::I16).unwrap();
    dataset.cases[0].image = image.clone();
    let recipe = recipe(&[]);
    let store = CaseStore::new(&cache, LARGE);
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
    // This process may still have the old volume in memory: it neither finds nor keeps anything.
    let (now, counts) = prepared(&dataset, &recipe, 0, (&store, &Silent));
    assert!(now != before);
    assert_eq!(counts, (0, 0));
    assert_eq!(entries(&cache).len(), 1);
    // Another one sees new data.
    let (found, counts) = prepared(
        &dataset,
        &recipe,
        0,
        (&CaseStore::new(&cache, LARGE), &Silent),
    );
    assert!(found == now);
    assert_eq!((counts, entries(&cache).len()), ((0, 1), 2));
}

#[test]
fn damaged_and_foreign_files_are_made_anew_with_one_warning() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let dataset = Dataset::open(&phantoms(folder.path(), 3, 0)).unwrap();
    let recipe = recipe(&[]);
    let store = CaseStore::new(&cache, LARGE);
    let expected: Vec<PreparedBits> = (0..3)
        .map(|case| prepared(&dataset, &recipe, case, (&store, &Silent)).0)
        .collect();
    let path = |case| {
        let wanted = Wanted {
            dataset: &dataset,
            case,
            recipe: &recipe,
            stage_one: None,
        };
        store.path(&store.key(&wanted).unwrap().unwrap())
    };
    let (first, second) = (path(0), path(1));
    let whole = fs::read(&first).unwrap();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        bytes
    };
    // A header that promises more than any memory holds.
    let mut vast = whole.clone();
    vast[40..48].copy_from_slice(&(1u64 << 40).to_le_bytes());
    let mut damages = vec![
        ("empty", Vec::new()),
        ("text", b"not a case".to_vec()),
        ("of another case", fs::read(&second).unwrap()),
        ("vast", vast),
        ("longer", [&whole[..], &[0]].concat()),
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
    for (what, bytes) in damages {
        fs::write(&first, &bytes).unwrap();
        fs::write(&second, &bytes[..bytes.len() / 2]).unwrap();
        let warned = Warned::default();
        let store = CaseStore::new(&cache, LARGE);
        for case in [0, 1, 2] {
            let (found, counts) = prepared(&dataset, &recipe, case, (&store, &warned));
            assert!(found == expected[case], "{what} {case}");
            assert_eq!(
                counts,
                if case < 2 { (0, 1) } else { (1, 0) },
                "{what} {case}"
            );
        }
        let lines = warned.lines();
        assert_eq!(lines.len(), 1, "{what}: {lines:?}");
        assert!(
            lines[0].contains("removed") && lines[0].contains(".case"),
            "{lines:?}"
        );
        assert!(fs::read(&first).unwrap() == whole, "{what} was not mended");
    }
    assert_eq!(entries(&cache).len(), 3);
}

/// Cases of one grid, which differ in a voxel.
fn alike(folder: &Path, count: usize) -> Dataset {
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
fn the_bound_is_kept_and_the_least_recently_used_go() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let dataset = alike(folder.path(), 5);
    let recipe = recipe(&[]);
    let size = {
        let store = CaseStore::new(&folder.path().join("other"), LARGE);
        prepared(&dataset, &recipe, 0, (&store, &Silent));
        let file = entries(&folder.path().join("other")).remove(0);
        fs::metadata(file).unwrap().len()
    };
    let most = size * 5 / 2;
    let store = CaseStore::new(&cache, most);
    // What else lies there is not ours.
    fs::create_dir(&cache).unwrap();
    fs::write(cache.join("notes.txt"), vec![0; 10_000_000]).unwrap();
    let over = AtomicBool::new(false);
    let (counts, largest) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut largest = 0;
            while !over.load(Ordering::Relaxed) {
                largest = largest.max(bytes_below(&cache));
                std::thread::sleep(Duration::from_millis(1));
            }
            largest
        });
        let counts = [0, 1, 0, 2, 0, 1, 0, 3, 4].map(|case| {
            // Times differ by more than file systems' ticks.
            std::thread::sleep(Duration::from_millis(30));
            prepared(&dataset, &recipe, case, (&store, &Silent)).1
        });
        over.store(true, Ordering::Relaxed);
        (counts, watcher.join().unwrap())
    });
    // Two fit: 1 goes for 2, because 0 was used again, 2 goes for 1 and so on.
    let expected = [false, false, true, false, true, false, true, false, false];
    assert_eq!(
        counts,
        expected.map(|found| if found { (1, 0) } else { (0, 1) })
    );
    assert!(largest <= most, "{largest} bytes, at most {most}");
    assert_eq!(bytes_below(&cache), 2 * size);
    assert!(cache.join("notes.txt").exists());

    // A killed process's file counts, and is removed when room is short.
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let own = ctseg_base::process::id::ProcessId::own().to_string();
    let dead = own.replace(
        &format!("-{}-", std::process::id()),
        &format!("-{}-", child.id()),
    );
    child.wait().unwrap();
    let leftover = cache.join(format!(".ctseg-{dead}-abcdef"));
    fs::File::create(&leftover).unwrap().set_len(most).unwrap();
    prepared(&dataset, &recipe, 0, (&store, &Silent));
    assert!(!leftover.exists() && bytes_below(&cache) <= most);

    // What can never fit is not kept, and costs nothing that is.
    let (small, warned) = (CaseStore::new(&cache, 1000), Warned::default());
    let before = entries(&cache);
    let absent = (0..5).find(|case| {
        let wanted = Wanted {
            dataset: &dataset,
            case: *case,
            recipe: &recipe,
            stage_one: None,
        };
        !small.path(&small.key(&wanted).unwrap().unwrap()).exists()
    });
    for _ in 0..2 {
        prepared(&dataset, &recipe, absent.unwrap(), (&small, &warned));
    }
    assert_eq!(entries(&cache), before);
    assert_eq!(warned.lines().len(), 1, "{:?}", warned.lines());
    assert!(
        warned.lines()[0].contains("--case-cache-size"),
        "{:?}",
        warned.lines()
    );
}

/// Bytes of entries, whole ones and those that are being written.
fn bytes_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().flatten();
    let ours = entries.filter(|entry| entry.file_name() != "notes.txt");
    ours.filter_map(|entry| Some(entry.metadata().ok()?.len()))
        .sum()
}

#[test]
fn a_folder_that_cannot_be_written_costs_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = Dataset::open(&phantoms(folder.path(), 2, 0)).unwrap();
    let recipe = recipe(&[]);
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let (store, warned) = (
        CaseStore::new(&file.join("cache"), LARGE),
        Warned::default(),
    );
    for case in [0, 1, 0] {
        let (found, counts) = prepared(&dataset, &recipe, case, (&store, &warned));
        assert!(found == made(&dataset, &recipe, case));
        assert_eq!(counts, (0, 1));
    }
    let lines = warned.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains("case cache") && lines[0].contains("create"),
        "{lines:?}"
    );
}
