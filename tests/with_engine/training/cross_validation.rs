//! Out-of-fold predictions.

use crate::common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use crate::common::{SMALL, phantoms, random_model, run, run_json, small_recipe, stderr};
use ctseg_base::progress::Silent;
use ctseg_core::dataset::Dataset;
use ctseg_core::inference::coarse_stage::out_of_fold_results;
use ctseg_core::inference::stage::{network_grid, network_input};
use ctseg_core::model::bundle::Bundle;
use ctseg_core::model::postprocessing::{Postprocessing, StructurePostprocessing};
use ctseg_core::outputs::sidecar::read_sidecar;
use ctseg_core::recipe::Recipe;
use ctseg_image::labels::postprocess::{Step, apply};
use ctseg_image::nifti::{
    NiftiHeader, VoxelType, read_labels, read_volume, write_labels, write_volume,
};
use ctseg_image::resample::restore_exclusive;
use ctseg_image::space::{Grid, LabelMap, Volume};
use ctseg_train::choose_postprocessing::PostprocessingSearch;
use ndarray::Array3;
use serde_json::Value;

mod postprocessing;

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
    run_json(folder, &arguments, 0)
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
fn every_case_is_predicted_by_the_fold_that_held_it_out() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = data(folder.path(), 5, 1);
    // A learning rate high enough to find something after one short training.
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
    assert_by_own_fold(&bundle, &dataset, &out);

    // The scores equal those of `ctseg evaluate`.
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

    // Stage 1 segments the union of all structures, and is compared with it.
    let out = run_of(&first, folder.path()).join("out_of_fold");
    let table = read(out.join("metrics.csv"));
    assert_eq!(table.lines().count(), 6, "{table}");
    assert!(table.contains(",structures,1,"), "{table}");
    let (_, union) = read_labels(&out.join(format!("{}.nii.gz", dataset.cases[0].id))).unwrap();
    assert!(union.data.iter().all(|label| *label <= 1));
}

/// Asserts that each label map in `out` is the result of the stage-2 fold that held the case out.
fn assert_by_own_fold(bundle: &Bundle, dataset: &Dataset, out: &Path) {
    let compute = common::compute();
    let cases = dataset.training_cases();
    let stop = AtomicBool::new(false);
    let stage_one =
        out_of_fold_results(bundle, dataset, &cases, true, &compute, &stop, &Silent).unwrap();
    let stage = bundle.load_stage(2, &compute).unwrap();
    let values: Vec<u16> = dataset.structures.iter().map(|s| s.value).collect();
    let (mut differing, mut marked) = (0, 0);
    for case in cases {
        let files = &dataset.cases[case];
        let image = dataset.load_image(files).unwrap().volume;
        let path = out.join(format!("{}.nii.gz", files.id));
        let (_, found) = read_labels(&path).unwrap();
        assert_eq!(found.grid, image.grid);
        let known = &stage_one[&case];
        let grid = network_grid(&stage.recipe, &image.grid, &known.region);
        let input = network_input(&stage.recipe, &image, &grid, Some(&known.prior)).unwrap();
        let folds = &bundle.stage(2).unwrap().folds;
        let own = folds
            .iter()
            .position(|fold| fold.held_out.contains(&files.id))
            .unwrap();
        let by = |fold: usize| {
            let logits = stage.logits_of_fold(fold, input.view()).unwrap();
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
}

#[test]
fn valid_label_maps_are_kept_when_the_run_is_resumed() {
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
    // One label map is lost, and one lacks its sidecar.
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
fn one_fold_predicts_its_own_cases_and_a_flag_disables_predictions() {
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
    // The flag does not make it a different training: both folds are in the model.
    let bundle = Bundle::open(&folder.path().join("model")).unwrap();
    assert_eq!(bundle.stage(2).unwrap().folds.len(), 2);
    assert_eq!(bundle.manifest.postprocessing, None);
}
