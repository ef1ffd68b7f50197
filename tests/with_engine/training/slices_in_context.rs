//! Context of slices: neighbours in 2.5D, and left and right structures of mirrored patients.

use std::collections::BTreeMap;
use std::sync::mpsc::sync_channel;

use crate::common::{phantoms, run, small_recipe, stderr};
use ctseg_core::dataset::Dataset;
use ctseg_core::recipe::Recipe;
use ctseg_engine::batch::Batch;
use ctseg_train::data::case_source::CaseSource;
use ctseg_train::data::sampler::{mirrored_maps, send_epoch};
use ndarray::{Array5, ArrayView5, Axis, s};

fn source<'a>(dataset: &'a Dataset, recipe: &'a Recipe) -> CaseSource<'a> {
    let structures = dataset.structures.iter().map(|s| s.value).collect();
    CaseSource::new(dataset, recipe, structures, BTreeMap::new())
}

/// Batches of one patch each, of the first case.
fn patches(source: &CaseSource) -> Vec<Batch> {
    let (to, batches) = sync_channel(10_000);
    assert!(send_epoch(source, &[0], 1, 0, &to));
    std::iter::from_fn(|| batches.recv().unwrap().unwrap()).collect()
}

fn input(batch: &Batch) -> ArrayView5<'_, f32> {
    ArrayView5::from_shape(batch.input_shape, &batch.input).unwrap()
}

fn targets(batch: &Batch) -> ArrayView5<'_, f32> {
    ArrayView5::from_shape(batch.targets_shape, &batch.targets).unwrap()
}

#[test]
fn a_patch_contains_the_neighbours_of_its_slice() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = Dataset::open(&phantoms(folder.path(), 1, 0)).unwrap();
    for augmented in [false, true] {
        // All augmentations that change values within slices are off.
        let augmentation = format!(
            "training.augmentation={{ enabled = {augmented}, rotation_probability = 0, scale_probability = 0, noise_probability = 0, blur_probability = 0, brightness_probability = 0, contrast_probability = 0, low_resolution_probability = 0, gamma_probability = 0, inverted_gamma_probability = 0 }}"
        );
        let recipe = small_recipe(
            "single",
            &[
                "network.kind=unet2_5d",
                "network.neighbours=3",
                "training.batch_size=1",
                "training.empty_slice_share=1000",
                &augmentation,
            ],
        );
        let source = source(&dataset, &recipe);
        let case = source.prepared(0).unwrap();
        let (channels, depth, height, width) = case.channels.dim();
        let batches = patches(&source);
        assert_eq!(batches.len(), depth, "every slice once");
        let mut middles = Vec::new();
        for batch in &batches {
            assert_eq!(batch.input_shape[..3], [1, channels, 7,][..]);
            assert_eq!(batch.targets_shape[2], 1);
            let patch = input(batch);
            let patch = patch.slice(s![0, .., .., ..height, ..width]);
            let same = |z: usize, at: usize| {
                patch.index_axis(Axis(1), at) == case.channels.index_axis(Axis(1), z)
            };
            // The slice whose seven neighbours, clamped at the ends, are in the patch.
            let middle = (0..depth)
                .find(|z| (0..7).all(|at| same((z + at).saturating_sub(3).min(depth - 1), at)));
            let middle = middle.expect("the patch is a slice with its neighbours");
            let labels = case.labels.index_axis(Axis(0), middle);
            for (map, value) in source.structures.iter().enumerate() {
                let marked = targets(batch);
                let marked = marked.slice(s![0, map, 0, ..height, ..width]);
                assert!(
                    marked
                        .iter()
                        .zip(labels)
                        .all(|(m, l)| (*m > 0.0) == (l == value))
                );
            }
            middles.push(middle);
        }
        middles.sort_unstable();
        assert_eq!(middles, (0..depth).collect::<Vec<_>>());
    }
}

#[test]
fn a_mirrored_patient_keeps_its_left_on_the_left() {
    let folder = tempfile::tempdir().unwrap();
    let mut dataset = Dataset::open(&phantoms(folder.path(), 1, 0)).unwrap();
    // Names the first two structures as a pair.
    let pair = ["kidney_left", "kidney_right"];
    for (structure, name) in dataset.structures.iter_mut().zip(pair) {
        structure.name = name.to_owned();
    }
    for structure in &mut dataset.structures[2..] {
        structure.name = format!("organ {}", structure.value);
    }
    let recipe = small_recipe(
        "single",
        &[
            "network.kind=unet2d",
            "network.neighbours=0",
            "training.batch_size=1",
            "training.empty_slice_share=0",
            "training.augmentation={ rotation_probability = 0, scale_probability = 0, noise_probability = 0, blur_probability = 0, brightness_probability = 0, contrast_probability = 0, low_resolution_probability = 0, gamma_probability = 0, inverted_gamma_probability = 0, flip_axes = ['x'] }",
        ],
    );
    let source = source(&dataset, &recipe);
    let case = source.prepared(0).unwrap();
    let (_, depth, height, width) = case.channels.dim();
    let mut seen = [0usize; 2];
    for batch in patches(&source) {
        let (patch, marked) = (input(&batch).to_owned(), targets(&batch).to_owned());
        let patch = patch.slice(s![0, .., 0, ..height, ..width]);
        let slice = |z: usize| case.channels.index_axis(Axis(1), z);
        let plain = (0..depth).find(|z| patch == slice(*z));
        let mirrored = (0..depth).find(|z| patch == slice(*z).slice(s![.., .., ..;-1]));
        let (z, flipped) = match (plain, mirrored) {
            (Some(z), None) => (z, false),
            (None, Some(z)) => (z, true),
            other => panic!("a patch is a slice or its mirror image: {other:?}"),
        };
        seen[usize::from(flipped)] += 1;
        let labels = case.labels.index_axis(Axis(0), z);
        let labels = if flipped {
            labels.slice(s![.., ..;-1])
        } else {
            labels
        };
        for map in 0..source.structures.len() {
            let shown = match (flipped, map) {
                (true, 0) => 1,
                (true, 1) => 0,
                _ => map,
            };
            let expected = labels.mapv(|l| f32::from(u8::from(l == source.structures[shown])));
            assert_eq!(marked.slice(s![0, map, 0, ..height, ..width]), expected);
        }
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

#[test]
fn a_left_structure_without_its_right_one_is_refused_before_training() {
    let folder = tempfile::tempdir().unwrap();
    let mut dataset = Dataset::open(&phantoms(folder.path(), 1, 0)).unwrap();
    dataset.structures[0].name = "lung_left".to_owned();
    for structure in &mut dataset.structures[1..] {
        structure.name = format!("organ {}", structure.value);
    }
    let flipping = ["training.augmentation={ flip_axes = ['x'] }"];
    let recipe = small_recipe("single", &flipping);
    let error = mirrored_maps(&source(&dataset, &recipe)).unwrap_err();
    assert!(error.to_string().contains("lung_right"), "{error}");
    let still = small_recipe("single", &[]);
    assert!(mirrored_maps(&source(&dataset, &still)).is_ok());
}

#[test]
fn slices_of_a_trained_stage_see_their_neighbours() {
    use ctseg_core::inference::stage::Stage;
    use ctseg_engine::device::{Compute, DeviceChoice};
    use ctseg_engine::precision::{Precision, PrecisionChoice};
    let recipe = small_recipe(
        "single",
        &[
            "network.kind=unet2_5d",
            "network.neighbours=1",
            "training.batch_size=3",
        ],
    );
    let compute = Compute::open(
        DeviceChoice::Auto,
        PrecisionChoice::Fixed(Precision::F32),
        1,
    )
    .unwrap();
    compute.device.seed(4);
    let network = recipe
        .network
        .init(recipe.channels(), 2, &compute.device)
        .unwrap();
    let channels = recipe.channels();
    let volume = ndarray::Array4::from_shape_fn((channels, 7, 9, 11), |(c, z, y, x)| {
        ((c + 2 * z + 3 * y + 5 * x) % 7) as f32 / 7.0
    });
    let alone = |z: usize| {
        let mut batch = Array5::zeros((1, channels, 3, 10, 12));
        for (at, z) in [z.saturating_sub(1), z, (z + 1).min(6)]
            .into_iter()
            .enumerate()
        {
            batch
                .slice_mut(s![0, .., at, ..9, ..11])
                .assign(&volume.index_axis(Axis(1), z));
        }
        batch
    };
    let inference =
        ctseg_engine::inference::Inference::new(vec![network.clone()], &compute).unwrap();
    let stage = Stage::new(recipe, vec![network], &compute).unwrap();
    let logits = stage.logits(volume.view(), &|_| Ok(())).unwrap();
    for z in 0..7 {
        let batch = alone(z);
        let (values, shape) = inference
            .logits(batch.as_slice().unwrap(), [1, channels, 3, 10, 12], None)
            .unwrap();
        let expected = Array5::from_shape_vec(shape, values.into_vec()).unwrap();
        let expected = expected.slice(s![0, .., 0, ..9, ..11]);
        let found = logits.index_axis(Axis(1), z);
        let difference = (&found - &expected)
            .iter()
            .fold(0f32, |m, v| m.max(v.abs()));
        assert!(difference < 1e-5, "slice {z}: {difference}");
    }
}

#[test]
fn test_time_augmentation_is_optional_and_recorded() {
    let folder = tempfile::tempdir().unwrap();
    phantoms(folder.path(), 4, 0);
    let data = folder.path().to_str().unwrap();
    let image = std::fs::read_dir(folder.path().join("images")).unwrap();
    let image = image.map(|entry| entry.unwrap().path()).next().unwrap();
    let image = image.to_str().unwrap();
    let fit = |flips: &str| {
        let flips = format!("training.augmentation.flip_axes={flips}");
        let arguments = [
            "fit",
            "--stage",
            "single",
            "--data",
            data,
            "--epochs",
            "1",
            "--set",
            "network.widths=[4, 8]",
            "--set",
            "spacing_mm=[14.0, 14.0, 14.0]",
            "--set",
            "folds=2",
            "--set",
            &flips,
        ];
        run(folder.path(), &arguments, 0);
    };
    let predict = |more: &[&str]| {
        let arguments = [&["predict", image, "-o", "out.nii.gz"], more].concat();
        run(folder.path(), &arguments, 0);
        let sidecar = std::fs::read_to_string(folder.path().join("out.json")).unwrap();
        let sidecar: serde_json::Value = serde_json::from_str(&sidecar).unwrap();
        sidecar["cascade"]["looks"].as_u64().unwrap()
    };
    fit("['x']");
    assert_eq!(predict(&["--tta"]), 2);
    // A label map with other settings is predicted again.
    assert_eq!(predict(&[]), 1);
    fit("[]");
    let refused = run(
        folder.path(),
        &["predict", image, "-o", "out.nii.gz", "--tta"],
        1,
    );
    assert!(stderr(&refused).contains("trained without"));
}
