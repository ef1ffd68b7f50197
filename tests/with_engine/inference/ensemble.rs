//! Ensembles of several models.

use crate::common;

use std::path::Path;

use crate::common::{
    phantoms, publish_random, random_model, run, small_recipe, stderr, two_structures,
};
use ctseg_core::inference::cascade::Cascade;
use ctseg_core::inference::coarse_stage::run_stage_one;
use ctseg_core::inference::stage::{network_grid, network_input};
use ctseg_core::model::bundle::{Bundle, TrainedStage};
use ctseg_core::outputs::sidecar::Sidecar;
use ctseg_image::nifti::{read_labels, read_volume};
use ctseg_image::resample::{Interpolation, resample_array, restore_exclusive};
use ctseg_image::space::{Orientation, VoxelBox};
use ndarray::Array4;

/// A single-stage model with these widths and this spacing.
fn single(model: &Path, spacing: &str, widths: &str) {
    let recipe = small_recipe("single", &[spacing, widths, "train_folds=[0]"]);
    publish_random(model, &recipe, &[&[]]);
}

fn sidecar(path: &Path) -> Sidecar {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn logits_are_averaged_on_the_first_models_grid() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
    single(&a, "spacing_mm=[6.0, 6.0, 7.0]", "network.widths=[4, 8]");
    single(&b, "spacing_mm=[9.0, 7.5, 5.0]", "network.widths=[6, 9]");
    phantoms(&folder.path().join("data"), 2, 0);
    let image = folder.path().join("data/images/phantom_000.nii.gz");
    let volume = read_volume(&image).unwrap().volume;
    let compute = common::compute();
    let bundles = [&a, &b].map(|path| Bundle::open(path).unwrap());
    let (found, report) = Cascade::load_all(&bundles, &compute)
        .unwrap()
        .segment(&volume, &|_, _| Ok(()))
        .unwrap();
    assert_eq!((report.roi, report.views), (None, 2));

    // By hand: each model separately, the second one's logits resampled to the first one's grid.
    let whole = VoxelBox::whole(volume.grid.reoriented(Orientation::RAS).shape);
    let mut sum: Option<Array4<f32>> = None;
    let mut common_grid = None;
    for bundle in &bundles {
        let stage = bundle.load_stage(2, &compute).unwrap();
        let grid = network_grid(&stage.recipe, &volume.grid, &whole);
        let onto = *common_grid.get_or_insert(grid);
        let input = network_input(&stage.recipe, &volume, &grid, None).unwrap();
        let logits = stage.logits(input.view(), &|_| Ok(())).unwrap();
        let [z, y, x] = onto.shape_zyx();
        let mut resampled = Array4::zeros((2, z, y, x));
        for (mut to, from) in resampled.outer_iter_mut().zip(logits.outer_iter()) {
            to.assign(&resample_array(from, &grid, &onto, Interpolation::Linear).unwrap());
        }
        sum = Some(sum.map_or(resampled.clone(), |sum| sum + &resampled));
    }
    let mean = sum.unwrap() / 2.0;
    let grid = common_grid.unwrap();
    let expected = restore_exclusive(mean.view(), &grid, &volume.grid, &[1, 300]).unwrap();
    assert!(expected.data.iter().any(|label| *label > 0));
    assert!(found.data == expected.data);
    for planes in [1, 3] {
        let (chunked, _) = Cascade::load_all(&bundles, &compute)
            .unwrap()
            .with_chunk_planes(planes)
            .segment(&volume, &|_, _| Ok(()))
            .unwrap();
        assert!(chunked.data == expected.data, "{planes} planes at once");
    }
    for bundle in bundles {
        let (alone, _) = Cascade::load(&bundle, &compute)
            .unwrap()
            .segment(&volume, &|_, _| Ok(()))
            .unwrap();
        assert!(alone.data != found.data, "only one model was used");
    }
}

#[test]
fn the_region_is_the_union_of_all_first_stages() {
    let folder = tempfile::tempdir().unwrap();
    let sample = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/example_ct_sm.nii.gz"
    );
    let volume = read_volume(Path::new(sample)).unwrap().volume;
    let compute = common::compute();
    // Thresholds that few voxels of each model reach.
    let [a, b] = [12.0, 17.0].map(|side: f64| {
        let model = folder.path().join(format!("{side}"));
        let spacing = format!("spacing_mm=[{side:?}, {side:?}, {side:?}]");
        random_model(&model, &[&spacing]);
        let stage1 = Bundle::open(&model)
            .unwrap()
            .load_stage(1, &compute)
            .unwrap();
        let (_, prior) = run_stage_one(&stage1, &volume, None).unwrap();
        let mut probabilities: Vec<f32> = prior.probabilities().into_iter().collect();
        probabilities.sort_by(f32::total_cmp);
        let high = probabilities[probabilities.len() - 4] - 0.001;
        let threshold = format!("roi.threshold={high:?}");
        let more = [
            "roi.margin_mm=[6.0, 0.0, 5.0]",
            "roi.smallest_component=0.0",
        ];
        random_model(&model, &[&spacing, &threshold, more[0], more[1]]);
        model
    });
    let bundles = [&a, &b].map(|path| Bundle::open(path).unwrap());
    let regions = bundles.each_ref().map(|bundle| {
        let stage1 = bundle.load_stage(1, &compute).unwrap();
        run_stage_one(&stage1, &volume, None).unwrap().0.region
    });
    let cascade = Cascade::load_all(&bundles, &compute).unwrap();
    let (_, report) = cascade.segment(&volume, &|_, _| Ok(())).unwrap();
    let ras = volume.grid.reoriented(Orientation::RAS);
    let joined = regions[0].union(&regions[1]);
    assert!(
        regions[0] != regions[1],
        "{regions:?}: the regions are the same"
    );
    let expected = ctseg_core::inference::roi::map_box(&joined, &ras, &volume.grid).unwrap();
    assert_eq!(report.roi, Some(expected));
}

#[test]
fn the_same_model_twice_gives_its_own_result() {
    let folder = tempfile::tempdir().unwrap();
    random_model(&folder.path().join("model"), &["roi.threshold=0.5"]);
    single(
        &folder.path().join("other"),
        "spacing_mm=[8.0, 8.0, 8.0]",
        "network.widths=[4, 8]",
    );
    phantoms(&folder.path().join("data"), 2, 0);
    let predict = |models: &[&str], out: &str, code| {
        let mut arguments = vec!["predict", "data/images", "-o", out];
        models
            .iter()
            .for_each(|model| arguments.extend(["--model", model]));
        run(folder.path(), &arguments, code)
    };
    predict(&["model"], "one", 0);
    predict(&["model", "model"], "two", 0);
    let labels = |out: &str| {
        read_labels(&folder.path().join(out).join("phantom_001.nii.gz"))
            .unwrap()
            .1
    };
    assert!(labels("one") == labels("two"));
    let (one, two) = ("one/phantom_001.json", "two/phantom_001.json");
    let [one, two] = [one, two].map(|name| sidecar(&folder.path().join(name)));
    assert!(one.ensemble.is_empty() && one.model_sha256 != two.model_sha256);
    assert_eq!(two.ensemble.len(), 2);
    assert!(
        two.ensemble
            .iter()
            .all(|used| used.sha256 == one.model_sha256)
    );

    // Single-stage and two-stage models; cases are kept when run again, unless the models change.
    let kept = |models: &[&str]| {
        let output = predict(models, "mixed", 0);
        stderr(&output) + &String::from_utf8_lossy(&output.stdout)
    };
    assert!(!kept(&["model", "other"]).contains("kept"));
    assert!(kept(&["model", "other"]).contains("kept    2"));
    assert!(!kept(&["other", "model"]).contains("kept"));
    let mixed = sidecar(&folder.path().join("mixed/phantom_000.json"));
    let named: Vec<_> = mixed
        .ensemble
        .iter()
        .map(|used| used.model.clone())
        .collect();
    assert_eq!(named, [Path::new("other"), Path::new("model")]);
    assert!(mixed.cascade.roi.is_some());
}

#[test]
fn models_of_other_structures_are_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
    single(&a, "spacing_mm=[8.0, 8.0, 8.0]", "network.widths=[4, 8]");
    single(&b, "spacing_mm=[8.0, 8.0, 8.0]", "network.widths=[4, 8]");
    // The same weights under another name.
    let bundle = Bundle::open(&b).unwrap();
    let mut structures = two_structures();
    structures[1].name = "kidney".to_owned();
    let manifest = bundle.stage(2).unwrap().clone();
    let weights = bundle.stage_weights(2).unwrap();
    std::fs::remove_dir_all(&b).unwrap();
    Bundle::publish(&b, &structures, TrainedStage { manifest, weights }).unwrap();
    phantoms(&folder.path().join("data"), 2, 0);
    let arguments = [
        "predict",
        "data/images",
        "-o",
        "out",
        "--model",
        "a",
        "--model",
        "b",
    ];
    let log = stderr(&run(folder.path(), &arguments, 1));
    assert!(
        log.contains("same structures") && log.contains("kidney"),
        "{log}"
    );
    assert_eq!(log.trim().lines().count(), 1, "{log}");
}
