//! 3-D networks: training patches, sliding-window inference, and both together.

use std::collections::BTreeMap;
use std::sync::mpsc::sync_channel;

use crate::common::{phantoms, run, small_recipe, stderr};
use ctseg_core::dataset::Dataset;
use ctseg_core::inference::stage::Stage;
use ctseg_core::recipe::Recipe;
use ctseg_engine::device::{Compute, DeviceChoice};
use ctseg_engine::inference::Inference;
use ctseg_engine::precision::{Precision, PrecisionChoice};
use ctseg_train::data::case_source::CaseSource;
use ctseg_train::data::sampler::send_epoch;
use ndarray::{Array4, Array5, ArrayView5, s};

/// A recipe with this patch size and the overrides `more`.
fn recipe(patch: [usize; 3], more: &[&str]) -> Recipe {
    let patch = format!("training.patch_size={patch:?}");
    let mut set = vec!["region=whole", "prior=false", &patch];
    set.extend(more);
    small_recipe("refine", &set)
}

#[test]
fn every_patch_is_a_part_of_its_case() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = Dataset::open(&phantoms(folder.path(), 1, 0)).unwrap();
    let of = |share: &str, limit: &str| {
        let recipe = recipe(
            [8, 8, 8],
            &[
                "training.batch_size=1",
                &format!("training.foreground_share={share}"),
                &format!("training.patches_per_epoch={limit}"),
            ],
        );
        let structures: Vec<u16> = dataset.structures.iter().map(|s| s.value).collect();
        let source = CaseSource::new(&dataset, &recipe, structures, BTreeMap::new());
        let case = source.prepared(0).unwrap();
        let (_, depth, height, width) = case.channels.dim();
        let (to, batches) = sync_channel(10_000);
        assert!(send_epoch(&source, &[0], 1, 0, &to));
        let (mut count, mut centred) = (0, 0);
        while let Some(batch) = batches.recv().unwrap().unwrap() {
            count += 1;
            assert_eq!(batch.input_shape[2..], [8, 8, 8]);
            assert_eq!(batch.targets_shape[2..], [8, 8, 8]);
            let input = ArrayView5::from_shape(batch.input_shape, &batch.input).unwrap();
            let targets = ArrayView5::from_shape(batch.targets_shape, &batch.targets).unwrap();
            let at = |z: usize, y: usize, x: usize| {
                case.channels.slice(s![.., z..z + 8, y..y + 8, x..x + 8])
                    == input.slice(s![0, .., .., .., ..])
            };
            let mut corners = (0..=depth - 8)
                .flat_map(|z| (0..=height - 8).map(move |y| (z, y)))
                .flat_map(|(z, y)| (0..=width - 8).map(move |x| (z, y, x)));
            let (z, y, x) = corners
                .find(|(z, y, x)| at(*z, *y, *x))
                .expect("a part of the case");
            let labels = case.labels.slice(s![z..z + 8, y..y + 8, x..x + 8]);
            for (map, value) in source.structures.iter().enumerate() {
                let expected = labels.mapv(|l| f32::from(u8::from(l == *value)));
                assert_eq!(targets.slice(s![0, map, .., .., ..]), expected);
            }
            // At the ends of the case the drawn voxel need not be the centre of the patch.
            let whole = labels.iter().any(|label| *label > 0);
            let middle = labels[[4, 4, 4]] > 0;
            centred += usize::from(middle || whole && (z == 0 || y == 0 || x == 0));
        }
        (count, centred)
    };
    let (count, centred) = of("1.0", "40");
    assert_eq!((count, centred), (40, 40), "all centred on a structure");
    let (count, centred) = of("0.0", "200");
    assert_eq!(count, 200);
    assert!(centred < 150, "{centred} of 200 anywhere");
}

#[test]
fn overlapping_patches_are_blended_with_gaussian_weights() {
    let recipe = recipe([8, 8, 8], &["training.batch_size=3"]);
    let compute = Compute::open(
        DeviceChoice::Auto,
        PrecisionChoice::Fixed(Precision::F32),
        2,
    )
    .unwrap();
    compute.device.seed(9);
    let channels = recipe.channels();
    let network = recipe.network.init(channels, 2, &compute.device).unwrap();
    let shape = [11usize, 8, 13];
    let volume = Array4::from_shape_fn((channels, shape[0], shape[1], shape[2]), |(c, z, y, x)| {
        ((3 * c + 2 * z + 5 * y + 7 * x) % 11) as f32 / 11.0
    });
    let inference = Inference::new(vec![network.clone()], &compute).unwrap();
    // In f64: the sum of each patch times its Gaussian, divided by the sum of the Gaussians.
    let gaussian = |i: usize| (-0.5 * ((i as f64 - 4.0) / 1.0).powi(2)).exp();
    let mut sum = Array4::<f64>::zeros((2, 11, 8, 13));
    let mut weight = Array4::<f64>::zeros((1, 11, 8, 13));
    for z in [0, 3] {
        for x in [0, 2, 5] {
            let patch = volume.slice(s![.., z..z + 8, .., x..x + 8]);
            let patch: Vec<f32> = patch.iter().copied().collect();
            let (values, shape) = inference
                .logits(&patch, [1, channels, 8, 8, 8], None)
                .unwrap();
            let logits = Array5::from_shape_vec(shape, values.into_vec()).unwrap();
            for ((_, m, dz, dy, dx), value) in logits.indexed_iter() {
                let g = gaussian(dz) * gaussian(dy) * gaussian(dx);
                sum[[m, z + dz, dy, x + dx]] += g * f64::from(*value);
                if m == 0 {
                    weight[[0, z + dz, dy, x + dx]] += g;
                }
            }
        }
    }
    let expected = sum / weight;
    let stage = Stage::new(recipe, vec![network], &compute).unwrap();
    assert_eq!(stage.pieces(shape), 6);
    let reported = std::sync::atomic::AtomicUsize::new(0);
    let logits = stage
        .logits(volume.view(), &|count| {
            reported.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
            Ok(())
        })
        .unwrap();
    assert_eq!(reported.into_inner(), 6);
    let difference = logits
        .iter()
        .zip(&expected)
        .map(|(a, b)| (f64::from(*a) - b).abs());
    let difference = difference.fold(0.0, f64::max);
    assert!(difference < 2e-5, "{difference}");
}

#[test]
fn a_volume_smaller_than_a_patch_is_padded() {
    let recipe = recipe([32, 32, 32], &[]);
    let compute = Compute::open(DeviceChoice::Auto, PrecisionChoice::Auto, 1).unwrap();
    compute.device.seed(2);
    let channels = recipe.channels();
    let network = recipe.network.init(channels, 2, &compute.device).unwrap();
    let stage = Stage::new(recipe, vec![network], &compute).unwrap();
    let small = Array4::from_elem((channels, 5, 9, 3), 0.5);
    let logits = stage.logits(small.view(), &|_| Ok(())).unwrap();
    assert_eq!(logits.dim(), (2, 5, 9, 3));
    assert!(logits.iter().all(|v| v.is_finite()));
}

#[test]
fn a_3d_network_trains_and_predicts_end_to_end() {
    let folder = tempfile::tempdir().unwrap();
    phantoms(folder.path(), 4, 0);
    let small = [
        "--set",
        "network.widths=[4, 8]",
        "--set",
        "spacing_mm=[14.0, 14.0, 14.0]",
        "--set",
        "folds=2",
        "--set",
        "training.patch_size=[8, 16, 16]",
        "--set",
        "region=whole",
        "--set",
        "prior=false",
    ];
    let data = folder.path().to_str().unwrap();
    let mut arguments = vec!["fit", "--stage", "refine", "--data", data, "--epochs", "2"];
    arguments.extend(small);
    let log = stderr(&run(folder.path(), &arguments, 0));
    assert!(log.contains("patches/s"), "{log}");
    let image = std::fs::read_dir(folder.path().join("images")).unwrap();
    let image = image.map(|entry| entry.unwrap().path()).next().unwrap();
    let image = image.to_str().unwrap();
    run(folder.path(), &["predict", image, "-o", "out"], 0);
    let labels = std::fs::read_dir(folder.path().join("out"))
        .unwrap()
        .count();
    assert!(labels >= 2, "a label map and its sidecar");
    // A patch size that does not match the network is refused first.
    let wrong = [
        "fit",
        "--stage",
        "refine",
        "--data",
        data,
        "--set",
        "training.patch_size=[32, 32]",
    ];
    let log = stderr(&run(folder.path(), &wrong, 1));
    assert!(
        log.contains("patch_size") && log.contains("[z, y, x]"),
        "{log}"
    );
}
