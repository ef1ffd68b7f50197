//! Which slices and patches an epoch shows: whole cases, shares of them, balanced structures, easy before hard.

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

/// For each patch the share of it that each structure fills.
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

/// The mean share of a patch that is any structure.
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
fn an_epoch_is_whole_or_as_long_as_it_is_told() {
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
    // Balanced or not, an epoch without a limit is as long.
    let of = |sampling: &str| count(&slices(&["training.empty_slice_share=0.5", sampling]));
    let every = of("training.slice_sampling=every");
    assert_eq!(every, of("training.slice_sampling=balanced"));
    assert!(every > 20);
}

#[test]
fn a_share_of_the_patches_holds_a_structure_and_every_structure_as_often() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = Dataset::open(&phantoms(folder.path(), 1, 0)).unwrap();
    let of = |recipe: Recipe| shares(&epoch(&dataset, &recipe, 1, 0));
    let some = "training.patches_per_epoch=900";
    let held = |all: &[Vec<f64>]| {
        let any = |shares: &Vec<f64>| f64::from(u8::from(shares.iter().any(|v| *v > 0.0)));
        mean(all.iter().map(any))
    };
    for make in [
        (|more: &[&str]| volumes(more)) as fn(&[&str]) -> Recipe,
        |more| slices(&[&["training.slice_sampling=balanced"], more].concat()),
    ] {
        let all = of(make(&[some, "training.foreground_share=1.0"]));
        assert_eq!(held(&all), 1.0);
        let none = held(&of(make(&[some, "training.foreground_share=0.0"])));
        let third = held(&of(make(&[some])));
        // nnU-Net's third of the patches hold one for sure, the others as often as any do.
        let expected = 0.33 + 0.67 * none;
        assert!((third - expected).abs() < 0.06, "{third} for {expected}");
        // Drawn for each structure alike, the rarest is in a share of the patches that is not far below one in as
        // many as there are; drawn by volume it would be in next to none.
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
fn a_curriculum_goes_from_much_structure_to_as_it_comes() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = Dataset::open(&phantoms(folder.path(), 2, 0)).unwrap();
    let curriculum = "training.curriculum={ epochs = 4, easiest = 0.125 }";
    let some = "training.patches_per_epoch=240";
    for (name, recipe) in [
        ("volumes", volumes(&[some, curriculum])),
        (
            "balanced slices",
            slices(&[some, curriculum, "training.slice_sampling=balanced"]),
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
        // After it nothing is left of it.
        for number in 4..6 {
            let same = epoch(&dataset, &recipe, 2, number) == epoch(&dataset, &plain, 2, number);
            assert!(same, "{name}");
        }
        // An epoch follows from the seed and its number, not from those before it.
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
fn inspect_lists_what_patches_are_drawn_and_how_they_change() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = slices(&[
        "training.slice_sampling=balanced",
        "training.patches_per_epoch=80",
        "training.curriculum.epochs=10",
        "training.augmentation={ elastic_probability = 0.3, metal_probability = 0.05, flip_axes = ['x'] }",
    ]);
    std::fs::write(folder.path().join("my.toml"), recipe.to_toml().unwrap()).unwrap();
    let output = run(folder.path(), &["inspect", "my.toml"], 0);
    let said = String::from_utf8(output.stdout).unwrap();
    for expected in [
        "patches: 8 × 8, balanced slices, foreground share 0.33, 80 per epoch, curriculum from the easiest 0.25, all after 10 epochs",
        "rotation 0.2 · scale 0.2 · elastic deformation 0.3 · noise 0.1",
        "metal 0.05 · mirroring along x 0.5",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let output = run(folder.path(), &["inspect", "coarse"], 0);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("every slice") && said.contains("augmentation: none"),
        "{said}"
    );
}
