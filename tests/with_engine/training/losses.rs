//! Every loss of the recipes: on phantom slices with every engine of the build, and through the binary.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::sync_channel;

use crate::common::{SMALL, phantoms, run, small_recipe, stderr};
use crate::learners::{engines, open};
use ctseg_core::dataset::Dataset;
use ctseg_engine::batch::Batch;
use ctseg_engine::learner::LearnerSetup;
use ctseg_engine::losses::{Loss, Outputs, name_or_section};
use ctseg_engine::networks::NetworkConfig;
use ctseg_engine::optim::OptimiserConfig;
use ctseg_engine::precision::Precision;
use ctseg_image::metrics::distance_transform::signed_distance_mm;
use ctseg_phantom::{SLICE_SPACING_MM, SLICE_STRUCTURES, generate_slice};
use ctseg_train::data::case_source::CaseSource;
use ctseg_train::data::sampler::send_epoch;
use ndarray::{Array3, s};

const SIDE: usize = 64;
const SLICES: usize = 3;

/// Every second pixel of phantom slices; a tenth of the pixels unknown where `ignores`.
fn batch(ignores: bool) -> Batch {
    let (mut input, mut targets, mut distances) = (Vec::new(), Vec::new(), Vec::new());
    for case in 0..SLICES as u64 {
        let (volume, labels) = generate_slice(case, 5);
        input.extend(
            volume
                .data
                .slice(s![0, ..;2, ..;2])
                .iter()
                .map(|hu| (hu + 200.0) / 500.0),
        );
        let labels = labels.data.slice(s![0..1, ..;2, ..;2]).to_owned();
        for (value, _) in SLICE_STRUCTURES {
            let inside: Array3<bool> = labels.mapv(|label| label == *value);
            let distance = signed_distance_mm(inside.view(), [2.0 * SLICE_SPACING_MM; 3]);
            distances.extend(distance.iter().copied());
            targets.extend(inside.indexed_iter().map(|((_, y, x), inside)| {
                match ignores && (y * SIDE + x).is_multiple_of(10) {
                    true => f32::NAN,
                    false => f32::from(u8::from(*inside)),
                }
            }));
        }
    }
    Batch {
        input,
        input_shape: [SLICES, 1, 1, SIDE, SIDE],
        targets,
        targets_shape: [SLICES, SLICE_STRUCTURES.len(), 1, SIDE, SIDE],
        distances: Some(distances),
        whole: SLICES,
    }
}

fn loss(section: &str, outputs: Outputs, ignores: bool) -> Loss {
    #[derive(serde::Deserialize)]
    struct Training {
        #[serde(with = "name_or_section")]
        loss: ctseg_engine::losses::LossConfig,
    }
    let training: Training = toml::from_str(&format!("loss = {section}")).unwrap();
    assert_eq!(training.loss.problem(outputs), None, "{section}");
    Loss {
        config: training.loss,
        outputs,
        weights: None,
        ignore_nan: ignores,
    }
}

const INDEPENDENT: [&str; 10] = [
    "'bce'",
    "'dice'",
    "'bce_dice'",
    "{ kind = 'bce_dice', per_sample = true }",
    "'focal'",
    "'tversky'",
    "'focal_tversky'",
    "'generalised_dice'",
    "{ kind = 'boundary', region = 'bce_dice' }",
    "'topk'",
];

const EXCLUSIVE: [&str; 9] = [
    "'ce'",
    "'dice'",
    "'ce_dice'",
    "{ kind = 'focal', alpha = 0.6 }",
    "'tversky'",
    "'focal_tversky'",
    "'generalised_dice'",
    "{ kind = 'boundary', region = 'ce_dice' }",
    "{ kind = 'topk', share = 0.2, dice_weight = 1.0 }",
];

#[test]
fn every_loss_decreases_on_every_engine() {
    let network: NetworkConfig =
        toml::from_str("kind = 'unet2d'\nwidths = [8, 16]\nnorm = 'instance'").unwrap();
    let independent = INDEPENDENT.map(|section| (section, Outputs::Independent));
    let exclusive = EXCLUSIVE.map(|section| (section, Outputs::Exclusive));
    let (whole, holed) = (batch(false), batch(true));
    for engine in engines() {
        let compute = open(engine, Precision::F32);
        for (at, (section, outputs)) in independent.into_iter().chain(exclusive).enumerate() {
            let ignores = at % 2 == 0;
            let setup = LearnerSetup {
                loss: loss(section, outputs, ignores),
                optimiser: OptimiserConfig::default(),
                recompute: false,
                micro_batches: 1,
                weight_average: None,
                frozen_levels: 0,
                sync_norms: false,
                group: Default::default(),
            };
            compute.device.seed(7);
            let network = network
                .init(1, SLICE_STRUCTURES.len(), &compute.device)
                .unwrap();
            let mut learner = compute.learner(network, setup).unwrap();
            let batch = if ignores { &holed } else { &whole };
            let losses: Vec<f64> = (0..12)
                .map(|step| {
                    let report = learner.step(batch, 5e-3, step).unwrap();
                    assert!(report.is_taken(), "{engine} {section}: {report:?}");
                    report.loss
                })
                .collect();
            let fall = 1.0 - losses[11] / losses[0];
            assert!(
                fall > 0.02 && losses[11] < losses[5],
                "{engine} {section} {outputs:?}: {losses:?}"
            );
        }
    }
}

#[test]
fn unknown_voxels_and_distances_reach_the_batches() {
    let folder = tempfile::tempdir().unwrap();
    let mut dataset = Dataset::open(&phantoms(folder.path(), 1, 0)).unwrap();
    let liver = dataset.structures.remove(0).value;
    dataset.ignore = Some(liver);
    let structures: Vec<u16> = dataset.structures.iter().map(|s| s.value).collect();
    let whole = [
        "training.patch_size=[256, 256]",
        "training.empty_slice_share=100",
        "training.loss=boundary",
    ];
    let recipe = small_recipe("single", &whole);
    let source = CaseSource::new(&dataset, &recipe, structures.clone(), BTreeMap::new());
    assert!(source.loss().unwrap().ignore_nan);
    let prepared = source.prepared(0).unwrap();
    let labels = &prepared.labels;
    let (to, batches) = sync_channel(1000);
    assert!(send_epoch(&source, &[0], 1, 0, &to));
    let (mut unknown, mut slices) = (0, 0);
    while let Some(batch) = batches.recv().unwrap().unwrap() {
        let [samples, maps, _, height, width] = batch.targets_shape;
        assert_eq!(maps, structures.len());
        slices += samples;
        let distances = batch.distances.unwrap();
        assert_eq!(distances.len(), batch.targets.len());
        let planes = batch.targets.chunks(height * width);
        for (targets, distances) in planes.zip(distances.chunks(height * width)) {
            unknown += targets.iter().filter(|t| t.is_nan()).count();
            let inside = targets.iter().map(|t| *t == 1.0).collect();
            let inside = Array3::from_shape_vec((1, height, width), inside).unwrap();
            let expected = signed_distance_mm(inside.view(), [14.0; 3]);
            assert!(distances.iter().eq(expected.iter()));
        }
    }
    assert_eq!(slices, labels.dim().0);
    let ignored = labels.iter().filter(|label| **label == liver).count();
    assert!(ignored > 0);
    assert_eq!(unknown, ignored * structures.len());
}

#[test]
fn patches_contain_known_voxels() {
    let folder = tempfile::tempdir().unwrap();
    let mut dataset = Dataset::open(&phantoms(folder.path(), 1, 0)).unwrap();
    dataset.structures.remove(0);
    let structures: Vec<u16> = dataset.structures.iter().map(|s| s.value).collect();
    let recipe = small_recipe(
        "refine",
        &[
            "region=whole",
            "prior=false",
            "training.patch_size=[8, 8, 8]",
            "training.foreground_share=0.0",
            "training.patches_per_epoch=100",
            "training.batch_size=1",
        ],
    );
    // Everything but the structures is unknown.
    dataset.ignore = Some(0);
    let source = CaseSource::new(&dataset, &recipe, structures, BTreeMap::new());
    let (to, batches) = sync_channel(1000);
    assert!(send_epoch(&source, &[0], 1, 0, &to));
    while let Some(batch) = batches.recv().unwrap().unwrap() {
        assert!(batch.targets.iter().any(|target| !target.is_nan()));
    }
}

/// Makes the liver the ignore label.
fn ignore_liver(descriptor: &Path) {
    let text = std::fs::read_to_string(descriptor).unwrap();
    let liver = text.lines().find(|line| line.starts_with("liver")).unwrap();
    let value = liver.split('=').nth(1).unwrap().trim();
    let text = text.replace(&format!("{liver}\n"), "").replacen(
        "\n\n",
        &format!("\nignore = {value}\n\n"),
        1,
    );
    std::fs::write(descriptor, text).unwrap();
}

#[test]
fn exclusive_classes_with_an_ignore_label_train_and_predict() {
    let data = tempfile::tempdir().unwrap();
    let descriptor = phantoms(data.path(), 4, 1);
    ignore_liver(&descriptor);
    let folder = tempfile::tempdir().unwrap();
    let data = descriptor.to_str().unwrap();
    let mut fit = vec!["fit", "--stage", "single", "--data", data, "--epochs", "2"];
    fit.extend(SMALL);
    for set in [
        "outputs=exclusive",
        "train_folds=[0]",
        "training.loss={kind='boundary', region='ce_dice', weight=0.02}",
        "training.class_weights={spleen=2.0, background=0.5}",
        "training.patches_per_epoch=40",
        "training.patch_size=[32, 32]",
    ] {
        fit.extend(["--set", set]);
    }
    run(folder.path(), &fit, 0);
    let model = std::fs::read_to_string(folder.path().join("model/model.toml")).unwrap();
    for kept in [
        "outputs = \"exclusive\"",
        "region = \"ce_dice\"",
        "spleen = 2.0",
    ] {
        assert!(model.contains(kept), "{model}");
    }
    assert!(!model.contains("liver"), "{model}");
    let runs = std::fs::read_dir(folder.path().join("runs")).unwrap();
    let made: Vec<_> = runs.map(|run| run.unwrap().path()).collect();
    assert!(
        made[0].to_str().unwrap().ends_with("_boundary_adam_32"),
        "{made:?}"
    );
    let metrics = std::fs::read_to_string(made[0].join("metrics.jsonl")).unwrap();
    for line in metrics.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(
            line["loss"].is_f64() && line["validation_loss"].is_f64(),
            "{line}"
        );
    }
    let image = descriptor.parent().unwrap().join("images");
    let image = std::fs::read_dir(image)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    run(
        folder.path(),
        &["predict", image.to_str().unwrap(), "-o", "out"],
        0,
    );
    run(folder.path(), &["evaluate", "out", data], 0);
}

#[test]
fn class_weights_of_unknown_classes_are_refused_before_reading_data() {
    let data = tempfile::tempdir().unwrap();
    let descriptor = phantoms(data.path(), 2, 0);
    let folder = tempfile::tempdir().unwrap();
    let data = descriptor.to_str().unwrap();
    for (stage, set, expected) in [
        ("single", "training.class_weights={livver=2.0}", "'livver'"),
        (
            "single",
            "training.class_weights={background=2.0}",
            "'background'",
        ),
        ("1", "training.class_weights={liver=2.0}", "as one"),
        ("1", "training.loss={kind='focal', gama=1}", "gama"),
        ("1", "training.loss={kind='focal', gamma=-1}", "gamma"),
        ("1", "outputs=exclusive", "ce_dice"),
    ] {
        let output = run(
            folder.path(),
            &["fit", "--stage", stage, "--data", data, "--set", set],
            1,
        );
        let log = stderr(&output);
        let errors: Vec<&str> = log.lines().filter(|line| line.contains(expected)).collect();
        assert_eq!(errors.len(), 1, "{set}: {log}");
    }
}
