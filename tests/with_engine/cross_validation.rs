//! Out-of-fold predictions, and the clean-up of label maps that is chosen on them.

use crate::common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use crate::common::{SMALL, phantoms, random_model, run, small_recipe, stderr};
use ctseg_base::progress::Silent;
use ctseg_core::dataset::Dataset;
use ctseg_core::inference::coarse_stage::out_of_fold_results;
use ctseg_core::inference::stage::{network_grid, network_input};
use ctseg_core::model::bundle::Bundle;
use ctseg_core::model::postprocessing::{Cleaning, Postprocessing};
use ctseg_core::outputs::sidecar::read_sidecar;
use ctseg_core::recipe::Recipe;
use ctseg_image::labels::postprocess::{Step, apply};
use ctseg_image::nifti::{
    NiftiHeader, VoxelType, read_labels, read_volume, write_labels, write_volume,
};
use ctseg_image::resample::restore_exclusive;
use ctseg_image::space::{Grid, LabelMap, Volume};
use ctseg_train::choose_postprocessing::Trial;
use ndarray::Array3;
use serde_json::Value;

fn fit(folder: &Path, stage: &str, more: &[&str]) -> Value {
    let mut arguments = vec![
        "fit",
        "--stage",
        stage,
        "--data",
        "data/dataset.toml",
        "--epochs",
        "1",
        "--json",
    ];
    arguments.extend(SMALL);
    arguments.extend(more);
    let output = run(folder, &arguments, 0);
    serde_json::from_slice(&output.stdout).unwrap()
}

fn run_of(summary: &Value, folder: &Path) -> PathBuf {
    folder.join(summary["run"].as_str().unwrap())
}

/// Phantoms in `data/`, with a descriptor called `dataset.toml`.
fn data(folder: &Path, train: usize, test: usize) -> Dataset {
    let descriptor = phantoms(&folder.join("data"), train, test);
    let named = folder.join("data/dataset.toml");
    if descriptor != named {
        std::fs::copy(&descriptor, &named).unwrap();
    }
    Dataset::open(&named).unwrap()
}

#[test]
fn every_case_is_predicted_by_the_fold_that_did_not_see_it() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = data(folder.path(), 5, 1);
    // Fast enough that something is marked after one short training.
    let fast = [
        "--set",
        "training.optimiser.learning_rate=0.1",
        "--set",
        "training.loss=dice",
    ];
    let first = fit(
        folder.path(),
        "1",
        &[&["--fold", "all"][..], &fast].concat(),
    );
    let set = [
        &["--fold", "all", "--set", "spacing_mm=[7.0, 7.0, 9.0]"][..],
        &fast,
    ]
    .concat();
    let summary = fit(folder.path(), "refine2_5d", &set);
    let out = run_of(&summary, folder.path()).join("out_of_fold");
    assert_eq!(summary["out_of_fold"]["complete"], true);
    assert_eq!(summary["out_of_fold"]["summary"]["cases"], 5);

    let bundle = Bundle::open(&folder.path().join("model")).unwrap();
    let compute = common::compute();
    let cases = dataset.training_cases();
    let stop = AtomicBool::new(false);
    let stage_one =
        out_of_fold_results(&bundle, &dataset, &cases, true, &compute, &stop, &Silent).unwrap();
    let segmenter = bundle.segmenter(2, &compute).unwrap();
    let values: Vec<u16> = dataset.structures.iter().map(|s| s.value).collect();
    let (mut differing, mut marked) = (0, 0);
    for case in cases {
        let files = &dataset.cases[case];
        let image = dataset.load_image(files).unwrap().volume;
        let path = out.join(format!("{}.nii.gz", files.id));
        let (_, found) = read_labels(&path).unwrap();
        assert_eq!(found.grid, image.grid);
        let known = &stage_one[&case];
        let grid = network_grid(&segmenter.recipe, &image.grid, &known.region);
        let input = network_input(&segmenter.recipe, &image, &grid, Some(&known.prior)).unwrap();
        let folds = &bundle.stage(2).unwrap().folds;
        let own = folds
            .iter()
            .position(|fold| fold.held_out.contains(&files.id))
            .unwrap();
        let by = |fold: usize| {
            let logits = segmenter.logits_of_fold(fold, input.view()).unwrap();
            restore_exclusive(logits.view(), &grid, &image.grid, &values).unwrap()
        };
        assert!(by(own).data == found.data, "{}", files.id);
        differing += usize::from(by(1 - own).data != found.data);
        marked += usize::from(found.data.iter().any(|label| *label > 0));
        let sidecar = read_sidecar(&path).unwrap();
        assert!(sidecar.cascade.roi.is_some() && sidecar.notes[0].contains("out of fold"));
    }
    assert!(
        differing > 0 && marked > 0,
        "{differing} differ, {marked} are not empty"
    );

    // The figures are those of `ctseg evaluate`.
    let path = out.to_str().unwrap();
    run(
        folder.path(),
        &["evaluate", path, "data/dataset.toml", "-o", "again"],
        0,
    );
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap();
    assert_eq!(
        read(out.join("metrics.csv")),
        read(folder.path().join("again/metrics.csv"))
    );

    // Stage 1 marks all structures as one, and is compared with them as one.
    let out = run_of(&first, folder.path()).join("out_of_fold");
    let table = read(out.join("metrics.csv"));
    assert_eq!(table.lines().count(), 6, "{table}");
    assert!(table.contains(",structures,1,"), "{table}");
    let (_, union) = read_labels(&out.join(format!("{}.nii.gz", dataset.cases[0].id))).unwrap();
    assert!(union.data.iter().all(|label| *label <= 1));
}

#[test]
fn label_maps_that_are_whole_are_kept_when_the_run_is_resumed() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 4, 0);
    let single = ["--set", "train_folds=[0, 1]"];
    let summary = fit(folder.path(), "single", &single);
    let run_path = run_of(&summary, folder.path());
    let out = run_path.join("out_of_fold");
    let maps = || {
        let mut maps: Vec<PathBuf> = std::fs::read_dir(&out)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.to_string_lossy().ends_with(".nii.gz"))
            .collect();
        maps.sort();
        maps
    };
    let written = |path: &PathBuf| std::fs::metadata(path).unwrap().modified().unwrap();
    let before = maps();
    assert_eq!(before.len(), 4);
    let times: Vec<_> = before.iter().map(written).collect();
    let bytes = std::fs::read(&before[1]).unwrap();
    // One is lost, and one lacks the sidecar that says that it is whole.
    std::fs::remove_file(&before[1]).unwrap();
    let name = before[2].to_string_lossy().replace(".nii.gz", ".json");
    std::fs::remove_file(name).unwrap();
    std::fs::write(out.join("stranger.nii.gz"), &bytes).unwrap();
    run(
        folder.path(),
        &["fit", "--resume", run_path.to_str().unwrap()],
        0,
    );
    let after = maps();
    assert_eq!(after, before);
    for (index, path) in after.iter().enumerate() {
        let remade = matches!(index, 1 | 2);
        assert_eq!(written(path) != times[index], remade, "{}", path.display());
    }
    assert!(std::fs::read(&after[1]).unwrap() == bytes);
}

#[test]
fn one_fold_gives_its_own_cases_and_a_flag_none() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 4, 0);
    let summary = fit(folder.path(), "single", &["--fold", "1"]);
    let bundle = Bundle::open(&folder.path().join("model")).unwrap();
    let held_out = &bundle.stage(2).unwrap().folds[0].held_out;
    assert_eq!(summary["out_of_fold"]["summary"]["cases"], held_out.len());
    let table = run_of(&summary, folder.path()).join("out_of_fold/metrics.csv");
    let table = std::fs::read_to_string(table).unwrap();
    let named = |id: &String| table.contains(&format!("{id},"));
    assert!(held_out.iter().all(named));

    let summary = fit(
        folder.path(),
        "single",
        &["--fold", "0", "--no-out-of-fold"],
    );
    assert!(summary["out_of_fold"].is_null());
    assert!(!run_of(&summary, folder.path()).join("out_of_fold").exists());
    // What is done afterwards does not make it another training: both folds are in the model.
    let bundle = Bundle::open(&folder.path().join("model")).unwrap();
    assert_eq!(bundle.stage(2).unwrap().folds.len(), 2);
    assert_eq!(bundle.manifest.postprocessing, None);
}

/// Cases with a ball and a pair of balls, and predictions of them: the ball with specks far away, the pair exact.
struct Balls {
    dataset: Dataset,
    maps: Vec<(usize, PathBuf)>,
}

fn ball(labels: &mut LabelMap, middle: [f64; 3], radius: f64, value: u16) {
    labels
        .data
        .indexed_iter_mut()
        .for_each(|((z, y, x), label)| {
            let away = [z, y, x]
                .into_iter()
                .zip(middle)
                .map(|(a, b)| (a as f64 - b).powi(2));
            if away.sum::<f64>() <= radius * radius {
                *label = value;
            }
        });
}

fn balls(folder: &Path, cases: usize) -> Balls {
    let grid = Grid::with_spacing([30, 24, 20], [2.0, 2.0, 3.0]);
    let header = NiftiHeader::for_grid(&grid).unwrap();
    let mut maps = Vec::new();
    for case in 0..cases {
        let mut reference = LabelMap::empty(grid);
        ball(&mut reference, [9.0, 8.0, 8.0 + case as f64 * 0.3], 5.0, 1);
        ball(&mut reference, [9.0, 18.0, 15.0], 3.0, 2);
        ball(&mut reference, [9.0, 18.0, 24.0], 3.0, 2);
        let name = format!("c{case}.nii.gz");
        let image = Volume {
            grid,
            data: Array3::zeros(grid.shape_zyx()),
        };
        write_volume(&folder.join("images").join(&name), &image, VoxelType::I16).unwrap();
        write_labels(&folder.join("labels").join(&name), &reference, &header).unwrap();
        let mut prediction = reference;
        ball(&mut prediction, [3.0, 4.0, 26.0], 1.5, 1);
        let path = folder.join("predicted").join(&name);
        write_labels(&path, &prediction, &header).unwrap();
        maps.push((case, path));
    }
    Balls {
        dataset: Dataset::open(folder).unwrap(),
        maps,
    }
}

fn chosen(balls: &Balls, recipe: &Recipe) -> Option<Postprocessing> {
    let trial = Trial {
        dataset: &balls.dataset,
        maps: &balls.maps,
        recipe,
        stop: &AtomicBool::new(false),
    };
    trial.chosen(&Silent).unwrap().0
}

#[test]
fn a_step_is_kept_only_where_its_structure_gains() {
    let folder = tempfile::tempdir().unwrap();
    let balls = balls(folder.path(), 5);
    let recipe = small_recipe("single", &["spacing_mm=[2.0, 2.0, 3.0]"]);
    let found = chosen(&balls, &recipe).unwrap();
    assert_eq!((found.cases, found.smallest_gain), (5, 0.001));
    // The pair has two components that both belong: it is left alone.
    assert_eq!(found.structures.keys().collect::<Vec<_>>(), ["structure_1"]);
    let cleaning = &found.structures["structure_1"];
    assert!(
        matches!(cleaning.steps[..], [Step::LargestComponent { .. }]),
        "{cleaning:?}"
    );
    assert_eq!(cleaning.dice_after, Some(1.0));
    // Dice before: 2·|ball| / (2·|ball| + |speck|), mean over the cases.
    let expected = balls.maps.iter().map(|(case, path)| {
        let count = |labels: &LabelMap| labels.data.iter().filter(|l| **l == 1).count() as f64;
        let (_, predicted) = read_labels(path).unwrap();
        let reference = balls
            .dataset
            .load_labels(&balls.dataset.cases[*case])
            .unwrap();
        2.0 * count(&reference) / (count(&reference) + count(&predicted))
    });
    let expected = expected.sum::<f64>() / 5.0;
    assert!((cleaning.dice_before.unwrap() - expected).abs() < 1e-12);

    // A gain that is asked for and not reached, the choice switched off, too few cases: nothing.
    let none = [
        "postprocessing.smallest_gain=0.5",
        "postprocessing.choose=false",
    ];
    for setting in none {
        assert_eq!(
            chosen(&balls, &small_recipe("single", &[setting])),
            None,
            "{setting}"
        );
    }
    let few = Balls {
        maps: balls.maps[..4].to_vec(),
        dataset: balls.dataset,
    };
    assert_eq!(chosen(&few, &recipe), None);
}

#[test]
fn steps_by_hand_are_used_and_measured_whatever_they_gain() {
    let folder = tempfile::tempdir().unwrap();
    let balls = balls(folder.path(), 5);
    let set = [
        "postprocessing.steps.structure_2=[{step='largest_component', connectivity=6}]",
        "spacing_mm=[2.0, 2.0, 3.0]",
    ];
    let found = chosen(&balls, &small_recipe("single", &set)).unwrap();
    let cleaning = &found.structures["structure_2"];
    assert!(cleaning.by_hand && cleaning.dice_before == Some(1.0));
    assert!(
        (cleaning.dice_after.unwrap() - 2.0 / 3.0).abs() < 1e-9,
        "half of the pair is gone"
    );
    assert!(
        found.structures.contains_key("structure_1"),
        "the others are chosen for all the same"
    );
    for (setting, expected) in [
        ("postprocessing.steps.a=[{step='median', voxels=4}]", "odd"),
        ("postprocessing.steps.a=[{step='melt'}]", "melt"),
        ("postprocessing.smallest_gain=-1", "smallest_gain"),
    ] {
        let error = Recipe::named("single", &[setting.to_owned()])
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{error}");
    }
    // A structure that the data has not is refused before any training.
    data(folder.path(), 4, 0);
    let mut arguments = vec!["fit", "--stage", "single", "--data", "data/dataset.toml"];
    arguments.extend(["--set", "postprocessing.steps.tail=[{step='fill_holes'}]"]);
    let said = stderr(&run(folder.path(), &arguments, 1));
    assert!(said.contains("tail") && said.contains("liver"), "{said}");
}

#[test]
fn prediction_cleans_up_as_the_model_says() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    random_model(&model, &["roi.threshold=0.5"]);
    let text = || std::fs::read_to_string(model.join("model.toml")).unwrap();
    assert!(
        !text().contains("postprocessing"),
        "models of old have no such section, and load"
    );
    let steps = vec![
        Step::FillHoles {
            within: Default::default(),
        },
        Step::Median { voxels: 3 },
    ];
    let cleaning = Cleaning {
        steps: steps.clone(),
        ..Cleaning::default()
    };
    let structures = BTreeMap::from([("liver".to_owned(), cleaning)]);
    let before = Bundle::open(&model).unwrap();
    let chosen = Postprocessing {
        cases: 5,
        smallest_gain: 0.001,
        structures,
    };
    before.set_postprocessing(Some(chosen.clone())).unwrap();
    let after = Bundle::open(&model).unwrap();
    assert_eq!(after.manifest.postprocessing, Some(chosen));
    assert_eq!(after.stage_sha256(2), before.stage_sha256(2));
    assert!(
        text().contains("[postprocessing.structures.liver]"),
        "{}",
        text()
    );

    let sample = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/example_ct_sm.nii.gz"
    );
    let name = Path::new(sample).file_name().unwrap();
    let result = folder.path().join("out").join(name);
    let predict = |more: &[&str]| {
        run(
            folder.path(),
            &[&["predict", sample, "-o", "out"], more].concat(),
            0,
        );
        (
            read_labels(&result).unwrap().1,
            read_sidecar(&result).unwrap(),
        )
    };
    let (mut raw, sidecar) = predict(&["--no-postprocess"]);
    assert!(sidecar.cascade.postprocessing.is_empty());
    let (cleaned, sidecar) = predict(&[]); // not taken for done: it was made without
    assert_eq!(sidecar.cascade.postprocessing["liver"], steps);
    assert!(cleaned.data != raw.data, "the steps changed nothing");
    apply(&mut raw, &[(1, steps)]).unwrap();
    assert!(cleaned.data == raw.data);
    assert_eq!(
        cleaned.grid,
        read_volume(Path::new(sample)).unwrap().volume.grid
    );
    let described = run(folder.path(), &["inspect", "model"], 0);
    let described = String::from_utf8_lossy(&described.stdout).into_owned();
    assert!(described.contains("median of 3 voxels"), "{described}");
}
