//! Cache keys: they change with everything that a preprocessed case depends on, and with nothing else.

use super::*;
use crate::staging::map_of;

/// A result of stage 1 with its own prior.
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

/// Settings that change preprocessed cases.
const OTHER_CASES: [&str; 14] = [
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
];

/// Settings that change only the training.
const SAME_CASES: [&str; 12] = [
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
];

/// The key of the first case in a new cache below `folder`.
fn key_of(
    folder: &Path,
    dataset: &Dataset,
    recipe: &Recipe,
    stage_one: Option<&StageOneResult>,
) -> Key {
    let store = PreprocessedCache::new(&folder.join("cache"), LARGE);
    let request = CaseRequest {
        dataset,
        case: 0,
        recipe,
        stage_one,
    };
    store.key(&request).unwrap().unwrap()
}

#[test]
fn keys_change_with_everything_that_cases_depend_on() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = Dataset::open(&phantoms(folder.path(), 2, 0)).unwrap();
    let key_of = |dataset: &Dataset, recipe: &Recipe, result: Option<&StageOneResult>| {
        key_of(folder.path(), dataset, recipe, result)
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
    for set in OTHER_CASES {
        differs(set.to_owned(), key_of(&dataset, &recipe(&[set]), None));
    }
    let mut ignoring = dataset.clone();
    ignoring.ignore = Some(3);
    differs("ignore".to_owned(), key_of(&ignoring, &plain, None));
    for how in ["auto", "-1024,1"] {
        let mut rescaled = dataset.clone();
        rescaled.reading.rescale_hu = Some(how.parse().unwrap());
        differs(how.to_owned(), key_of(&rescaled, &plain, None));
    }
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
    // A prior that is not an input channel.
    let unseen = stage_one(0.6, [4, 5, 6], 22);
    assert!(key_of(&dataset, &without, Some(&unseen)) == first);
}

#[test]
fn other_settings_and_file_locations_change_no_key() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = Dataset::open(&phantoms(folder.path(), 2, 0)).unwrap();
    let key_of = |dataset: &Dataset, recipe: &Recipe| key_of(folder.path(), dataset, recipe, None);
    let plain = recipe(&[]);
    let own = key_of(&dataset, &plain);
    for set in SAME_CASES {
        assert!(key_of(&dataset, &recipe(&[set])) == own, "{set}");
    }
    // The same files elsewhere, written at another time.
    let labels = map_of(&dataset, 0);
    let elsewhere = folder.path().join("elsewhere");
    let mut moved = dataset.clone();
    fs::create_dir(&elsewhere).unwrap();
    for (from, name) in [(&dataset.cases[0].image, "i.nii.gz"), (&labels, "l.nii.gz")] {
        fs::copy(from, elsewhere.join(name)).unwrap();
    }
    moved.cases[0].id = "another name".to_owned();
    moved.cases[0].image = elsewhere.join("i.nii.gz");
    moved.cases[0].labels = LabelSource::Map(elsewhere.join("l.nii.gz"));
    assert!(key_of(&moved, &plain) == own);
}
