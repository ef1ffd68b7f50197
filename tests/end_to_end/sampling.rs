//! Sampling of slices and patches: epoch length, foreground share, balanced structures, curriculum.

use std::collections::BTreeMap;
use std::sync::mpsc::sync_channel;

use crate::common::{phantoms, run, small_recipe};
use ctseg_core::dataset::Dataset;
use ctseg_core::recipe::Recipe;
use ctseg_engine::batch::Batch;
use ctseg_train::data::case_source::CaseSource;
use ctseg_train::data::sampler::send_epoch;

/// The batches of one epoch of the first `cases` cases.
fn epoch(dataset: &Dataset, recipe: &Recipe, cases: usize, number: usize) -> Vec<Batch> {
    let structures = dataset.structures.iter().map(|s| s.value).collect();
    let source = CaseSource::new(dataset, recipe, structures, BTreeMap::new());
    let cases: Vec<usize> = (0..cases).collect();
    let (to, batches) = sync_channel(10_000);
    assert!(send_epoch(&source, &cases, 7, number, &to));
    std::iter::from_fn(|| batches.recv().unwrap().unwrap()).collect()
}

/// For each patch, the fraction filled by each structure.
fn shares(batches: &[Batch]) -> Vec<Vec<f64>> {
    let patches = batches.iter().flat_map(|batch| {
        let [count, structures, ..] = batch.targets_shape;
        let maps = batch
            .targets
            .chunks_exact(batch.targets.len() / count / structures);
        let filled: Vec<f64> = maps
            .map(|map| map.iter().sum::<f32>() as f64 / map.len() as f64)
            .collect();
        let patches: Vec<Vec<f64>> = filled
            .chunks_exact(structures)
            .map(<[f64]>::to_vec)
            .collect();
        patches
    });
    patches.collect()
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.collect();
    values.iter().sum::<f64>() / values.len() as f64
}

/// The mean fraction of a patch filled by any structure.
fn structure_share(batches: &[Batch]) -> f64 {
    mean(
        shares(batches)
            .into_iter()
            .map(|shares| shares.iter().sum()),
    )
}

fn volumes(more: &[&str]) -> Recipe {
    let mut set = vec![
        "region=whole",
        "prior=false",
        "training.patch_size=[8, 8, 8]",
    ];
    set.extend(more);
    small_recipe("refine", &set)
}

fn slices(more: &[&str]) -> Recipe {
    let mut set = vec![
        "network.kind=unet2d",
        "network.neighbours=0",
        "training.patch_size=[8, 8]",
    ];
    set.extend(more);
    small_recipe("single", &set)
}

#[test]
fn an_epoch_covers_all_volumes_or_the_set_number_of_patches() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = Dataset::open(&phantoms(folder.path(), 3, 0)).unwrap();
    let count = |recipe: &Recipe| shares(&epoch(&dataset, recipe, 3, 0)).len();
    let mut recipe = volumes(&[]);
    recipe.training.patches_per_epoch = None;
    // As many patches as fill the volumes.
    let structures: Vec<u16> = dataset.structures.iter().map(|s| s.value).collect();
    let source = CaseSource::new(&dataset, &recipe, structures, BTreeMap::new());
    let voxels = |case: usize| source.prepared(case).unwrap().labels.len();
    let filling: usize = (0..3).map(|case| voxels(case).div_ceil(512)).sum();
    assert_eq!(count(&recipe), filling);
    for limit in [1, 10, 137] {
        let limited = format!("training.patches_per_epoch={limit}");
        assert_eq!(count(&volumes(&[&limited])), limit);
        assert_eq!(count(&slices(&[&limited])), limit);
        let balanced = "training.slice_sampling=balanced";
        assert_eq!(count(&slices(&[&limited, balanced])), limit);
    }
    // Without a limit an epoch has the same length, balanced or not.
    let count_with = |sampling: &str| count(&slices(&["training.empty_slice_share=0.5", sampling]));
    let every = count_with("training.slice_sampling=every");
    assert_eq!(every, count_with("training.slice_sampling=balanced"));
    assert!(every > 20);
}

#[test]
fn the_foreground_share_is_met_and_structures_are_balanced() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = Dataset::open(&phantoms(folder.path(), 1, 0)).unwrap();
    let epoch_shares = |recipe: Recipe| shares(&epoch(&dataset, &recipe, 1, 0));
    let limit = "training.patches_per_epoch=900";
    let foreground_share = |all: &[Vec<f64>]| {
        let any = |shares: &Vec<f64>| f64::from(u8::from(shares.iter().any(|v| *v > 0.0)));
        mean(all.iter().map(any))
    };
    for make in [
        (|more: &[&str]| volumes(more)) as fn(&[&str]) -> Recipe,
        |more| slices(&[&["training.slice_sampling=balanced"], more].concat()),
    ] {
        let all = epoch_shares(make(&[limit, "training.foreground_share=1.0"]));
        assert_eq!(foreground_share(&all), 1.0);
        let none = foreground_share(&epoch_shares(make(&[
            limit,
            "training.foreground_share=0.0",
        ])));
        let third = foreground_share(&epoch_shares(make(&[limit])));
        // A third of the patches, as in nnU-Net, surely contain a structure; the others as often as random ones.
        let expected = 0.33 + 0.67 * none;
        assert!((third - expected).abs() < 0.06, "{third} for {expected}");
        // Structures are drawn with equal probability, so even the rarest is in nearly 1 / count of the patches; drawn
        // by volume it would be in almost none.
        let count = all[0].len() as f64;
        for structure in 0..all[0].len() {
            let seen = mean(all.iter().map(|s| f64::from(u8::from(s[structure] > 0.0))));
            assert!(
                seen > 0.8 / count,
                "structure {structure} in {seen} of {count}"
            );
        }
    }
}

#[test]
fn a_curriculum_starts_with_the_most_structure() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = Dataset::open(&phantoms(folder.path(), 2, 0)).unwrap();
    let curriculum = "training.curriculum={ epochs = 4, easiest = 0.125 }";
    let limit = "training.patches_per_epoch=240";
    for (name, recipe) in [
        ("volumes", volumes(&[limit, curriculum])),
        (
            "balanced slices",
            slices(&[limit, curriculum, "training.slice_sampling=balanced"]),
        ),
        ("every slice", slices(&[curriculum])),
    ] {
        let mut plain = recipe.clone();
        plain.training.curriculum = None;
        let shares: Vec<f64> = (0..6)
            .map(|number| structure_share(&epoch(&dataset, &recipe, 2, number)))
            .collect();
        let usual = mean((4..6).map(|number| structure_share(&epoch(&dataset, &plain, 2, number))));
        assert!(shares[0] > 1.4 * usual, "{name}: {shares:?} {usual}");
        assert!(shares[0] > shares[2], "{name}: {shares:?}");
        // It has no effect after its last epoch.
        for number in 4..6 {
            let same = epoch(&dataset, &recipe, 2, number) == epoch(&dataset, &plain, 2, number);
            assert!(same, "{name}");
        }
        // An epoch depends on the seed and its number, not on earlier epochs.
        let again = epoch(&dataset, &recipe, 2, 2);
        assert!(again == epoch(&dataset, &recipe, 2, 2), "{name}");
    }
}

#[test]
fn shares_of_a_curriculum_grow_evenly() {
    let recipe = volumes(&["training.curriculum.epochs=4"]);
    let shares: Vec<Option<f64>> = (0..6).map(|e| recipe.training.easiest_share(e)).collect();
    let expected = [
        Some(0.25),
        Some(0.4375),
        Some(0.625),
        Some(0.8125),
        None,
        None,
    ];
    assert_eq!(shares, expected);
    assert_eq!(volumes(&[]).training.easiest_share(0), None);
}

#[test]
fn volumes_are_always_balanced() {
    let set = ["training.slice_sampling=balanced".to_owned()];
    let error = Recipe::named("refine", &set).unwrap_err().to_string();
    assert!(
        error.contains("slice_sampling") && !error.contains('\n'),
        "{error}"
    );
}

#[test]
fn inspect_shows_sampling_and_augmentation() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = slices(&[
        "training.slice_sampling=balanced",
        "training.patches_per_epoch=80",
        "training.curriculum.epochs=10",
        "training.augmentation={ elastic_probability = 0.3, metal_probability = 0.05, flip_axes = ['x'] }",
    ]);
    std::fs::write(folder.path().join("my.toml"), recipe.to_toml().unwrap()).unwrap();
    let output = run(folder.path(), &["inspect", "my.toml"], 0);
    let printed = String::from_utf8(output.stdout).unwrap();
    for expected in [
        "patches: 8 × 8, balanced slices, foreground share 0.33, 80 per epoch, curriculum from the easiest 0.25, all after 10 epochs",
        "rotation 0.2 · scale 0.2 · elastic deformation 0.3 · noise 0.1",
        "metal 0.05 · mirroring along x 0.5",
    ] {
        assert!(printed.contains(expected), "{expected}: {printed}");
    }
    let output = run(folder.path(), &["inspect", "coarse"], 0);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(
        printed.contains("every slice") && printed.contains("augmentation: none"),
        "{printed}"
    );
}
