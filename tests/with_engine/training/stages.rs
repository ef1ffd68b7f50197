//! Between data and training: batches, out-of-fold stage-1 results, bundles.

use crate::common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::sync_channel;

use crate::common::{phantoms, publish_random, random_model, small_recipe, two_structures};
use ctseg_base::progress::Silent;
use ctseg_core::dataset::Dataset;
use ctseg_core::inference::cascade::Cascade;
use ctseg_core::inference::coarse_result::StageOneResult;
use ctseg_core::inference::coarse_stage::{out_of_fold_results, run_stage_one};
use ctseg_core::inference::roi::Prior;
use ctseg_core::model::bundle::Bundle;
use ctseg_core::recipe::Recipe;
use ctseg_image::space::{Orientation, VoxelBox};
use ctseg_train::data::case_source::CaseSource;
use ctseg_train::data::sampler::send_epoch;

mod bundles;

/// All numbers of an epoch's batches.
fn epoch(
    dataset: &Dataset,
    recipe: &Recipe,
    stage_one: &BTreeMap<usize, StageOneResult>,
    seed: u64,
    epoch: usize,
) -> Vec<f32> {
    let structures = dataset.structures.iter().map(|s| s.value).collect();
    let source = CaseSource::new(dataset, recipe, structures, stage_one.clone());
    let cases: Vec<usize> = (0..dataset.cases.len()).collect();
    let (to, batches) = sync_channel(10_000);
    assert!(send_epoch(&source, &cases, seed, epoch, &to));
    let mut numbers = Vec::new();
    while let Some(batch) = batches.recv().unwrap().unwrap() {
        let [count, channels, depth, height, width] = batch.input_shape;
        let seen = 2 * recipe.network.neighbours() + 1;
        assert_eq!((depth, batch.targets_shape[2]), (seen, 1));
        assert!(count <= recipe.training.batch_size && channels == recipe.channels());
        assert_eq!(
            height % recipe.network.multiple()[1] + width % recipe.network.multiple()[2],
            0
        );
        assert_eq!(batch.targets_shape[1], source.outputs());
        assert!(batch.input.iter().all(|v| (0.0..=1.0).contains(v)));
        assert!(batch.targets.iter().all(|v| *v == 0.0 || *v == 1.0));
        numbers.extend(batch.input);
        numbers.extend(batch.targets);
    }
    numbers
}

#[test]
fn only_the_seed_and_the_epoch_change_the_batches() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = Dataset::open(&phantoms(folder.path(), 5, 0)).unwrap();
    let recipe = small_recipe(
        "refine2_5d",
        &["training.patch_size=[16, 12]", "spacing_mm=[8.0, 8.0, 8.0]"],
    );
    let stage_one: BTreeMap<usize, StageOneResult> = (0..5)
        .map(|case| {
            let grid = dataset
                .load_image(&dataset.cases[case])
                .unwrap()
                .volume
                .grid
                .reoriented(Orientation::RAS);
            let third = grid.shape.map(|n| n / 3);
            let region = VoxelBox {
                start: third,
                end: third.map(|n| 2 * n),
            };
            let coarse = grid.respaced([20.0; 3]);
            let half = ndarray::Array3::from_elem(coarse.shape_zyx(), 0.5);
            (
                case,
                StageOneResult {
                    region,
                    prior: Prior::new(coarse, half.view()),
                },
            )
        })
        .collect();
    let on = |threads: usize, seed, number| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| epoch(&dataset, &recipe, &stage_one, seed, number))
    };
    let one = on(1, 7, 0);
    assert!(one.len() > 10_000);
    assert!(
        one == on(4, 7, 0),
        "the number of threads changed the batches"
    );
    assert!(one != on(2, 8, 0), "the seed changed nothing");
    assert!(one != on(2, 7, 1), "the epoch changed nothing");
}

/// The bits of every patch of an epoch.
fn patches_of(dataset: &Dataset, recipe: &Recipe, number: usize) -> Vec<Vec<u32>> {
    let structures = dataset.structures.iter().map(|s| s.value).collect();
    let source = CaseSource::new(dataset, recipe, structures, BTreeMap::new());
    let cases: Vec<usize> = (0..dataset.cases.len()).collect();
    let (to, batches) = sync_channel(10_000);
    assert!(send_epoch(&source, &cases, 3, number, &to));
    let mut patches = Vec::new();
    while let Some(batch) = batches.recv().unwrap().unwrap() {
        let size = batch.input.len() / batch.input_shape[0];
        patches.extend(batch.input.chunks(size).map(|patch| {
            // Without padding, which depends on the batch, a slice is the same in every batch.
            patch
                .iter()
                .filter(|v| **v > 0.0)
                .map(|v| v.to_bits())
                .collect::<Vec<u32>>()
        }));
    }
    patches
}

#[test]
fn an_epoch_of_a_fixed_size_draws_every_slice_once_before_any_twice() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = Dataset::open(&phantoms(folder.path(), 5, 0)).unwrap();
    let with = |limit: &str, number| {
        // The share of empty slices is so high that every slice is drawn.
        let set = [
            "training.empty_slice_share=1000",
            "spacing_mm=[24.0, 24.0, 7.0]",
            limit,
        ];
        patches_of(&dataset, &small_recipe("single", &set), number)
    };
    let distinct = |patches: &[Vec<u32>]| patches.iter().collect::<BTreeSet<_>>().len();
    let all = with("training.epochs=1", 0);
    let count = all.len();
    assert_eq!(distinct(&all), count);
    for limit in [1, count / 3, count - 1, count, count + 7, 2 * count] {
        let drawn = with(&format!("training.patches_per_epoch={limit}"), 0);
        assert_eq!(drawn.len(), limit);
        assert_eq!(
            distinct(&drawn),
            limit.min(count),
            "limit {limit} of {count}"
        );
    }
    let third = format!("training.patches_per_epoch={}", count / 3);
    assert!(
        with(&third, 0) != with(&third, 1),
        "another epoch, other slices"
    );
}

#[test]
fn augmented_batches_depend_on_the_seed_and_stay_in_range() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = Dataset::open(&phantoms(folder.path(), 5, 0)).unwrap();
    let recipe = |set: &[&str]| {
        let mut all = vec![
            "training.patch_size=[24, 20]",
            "spacing_mm=[8.0, 9.0, 12.0]",
        ];
        all.extend(set);
        small_recipe("single", &all)
    };
    let plain = recipe(&[]);
    let on = [
        "training.augmentation.enabled=true",
        "training.augmentation.rotation_probability=1.0",
        "training.augmentation.noise_probability=0.5",
    ];
    let augmented = recipe(&on);
    let with = |recipe: &Recipe, threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let numbers = || epoch(&dataset, recipe, &BTreeMap::new(), 7, 0);
        pool.build().unwrap().install(numbers)
    };
    let one = with(&augmented, 1);
    assert!(
        one == with(&augmented, 4),
        "the number of threads changed the batches"
    );
    assert!(one != with(&plain, 2), "augmentation changed nothing");
    let off = recipe(&[on[1], "training.augmentation.enabled=false"]);
    assert!(
        with(&off, 2) == with(&plain, 2),
        "disabled augmentation changed the batches"
    );
}

#[test]
fn stage_2_is_trained_on_out_of_fold_results_of_stage_1() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = Dataset::open(&phantoms(&folder.path().join("data"), 3, 0)).unwrap();
    let model = folder.path().join("model");
    publish_random(
        &model,
        &small_recipe("1", &["roi.threshold=0.5"]),
        &[&["phantom_000"], &["phantom_001"]],
    );
    let bundle = Bundle::open(&model).unwrap();
    let compute = common::compute();
    let results = out_of_fold_results(
        &bundle,
        &dataset,
        &[0, 1, 2],
        true,
        &compute,
        &AtomicBool::new(false),
        &Silent,
    )
    .unwrap();
    let stage = bundle.load_stage(1, &compute).unwrap();
    for (case, fold) in [(0, Some(0)), (1, Some(1)), (2, None)] {
        let volume = dataset.load_image(&dataset.cases[case]).unwrap().volume;
        let by = |fold| {
            run_stage_one(&stage, &volume, fold)
                .unwrap()
                .1
                .probabilities()
        };
        let out_of_fold = by(fold);
        assert_eq!(results[&case].prior.probabilities(), out_of_fold);
        for other in [Some(0), Some(1), None]
            .into_iter()
            .filter(|other| *other != fold)
        {
            assert_ne!(
                out_of_fold,
                by(other),
                "case {case}: the folds give the same result, so nothing was tested"
            );
        }
    }
}

#[test]
fn a_share_of_the_patches_loses_its_prior() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = Dataset::open(&phantoms(&folder.path().join("data"), 2, 0)).unwrap();
    let model = folder.path().join("model");
    publish_random(
        &model,
        &small_recipe("1", &["roi.threshold=0"]),
        &[&["phantom_000"], &["phantom_001"]],
    );
    let results = out_of_fold_results(
        &Bundle::open(&model).unwrap(),
        &dataset,
        &[0, 1],
        true,
        &common::compute(),
        &AtomicBool::new(false),
        &Silent,
    )
    .unwrap();
    let with = |share: &str| {
        let recipe = small_recipe(
            "refine2_5d",
            &[
                "training.batch_size=1",
                "jitter.shift_mm=0",
                "jitter.grow_mm=0",
                &format!("jitter.drop_prior={share}"),
            ],
        );
        let source = CaseSource::new(&dataset, &recipe, vec![1, 2], results.clone());
        let (to, batches) = sync_channel(10_000);
        assert!(send_epoch(&source, &[0, 1], 1, 0, &to));
        let mut priors = Vec::new();
        while let Some(batch) = batches.recv().unwrap().unwrap() {
            let [_, channels, depth, height, width] = batch.input_shape;
            let images = (channels - 1) * depth * height * width;
            let (image, prior) = batch.input.split_at(images);
            assert!(image.iter().any(|v| *v > 0.0));
            priors.push(prior.iter().any(|v| *v > 0.0));
        }
        (
            priors.iter().filter(|has_prior| **has_prior).count(),
            priors.len(),
        )
    };
    let (all, slices) = with("0");
    assert_eq!(all, slices);
    assert_eq!(with("1").0, 0);
    let (half, _) = with("0.5");
    assert!(
        half > slices / 4 && half < slices * 3 / 4,
        "{half} of {slices}"
    );
}

#[test]
fn a_case_that_every_stage_1_fold_trained_on_is_refused_in_training() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = Dataset::open(&phantoms(&folder.path().join("data"), 2, 0)).unwrap();
    let model = folder.path().join("model");
    publish_random(&model, &small_recipe("1", &[]), &[&["phantom_000"]]);
    let manifest = model.join("model.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(
        &manifest,
        text.replace("trained_on = []", "trained_on = [\"phantom_001\"]"),
    )
    .unwrap();
    rewrite_checksums(&model);
    let bundle = Bundle::open(&model).unwrap();
    let compute = common::compute();
    let results = |cases: &[usize]| {
        out_of_fold_results(
            &bundle,
            &dataset,
            cases,
            false,
            &compute,
            &AtomicBool::new(false),
            &Silent,
        )
    };
    assert!(results(&[0]).is_ok());
    assert!(
        results(&[0, 1])
            .unwrap_err()
            .to_string()
            .contains("phantom_001")
    );
}

fn rewrite_checksums(model: &std::path::Path) {
    let lines = ["model.toml", "stage1.safetensors"].map(|name| {
        format!(
            "{}  {name}\n",
            ctseg_base::hash::file_sha256(&model.join(name)).unwrap()
        )
    });
    std::fs::write(model.join("SHA256SUMS"), lines.concat()).unwrap();
}
