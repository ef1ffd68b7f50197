//! `ctseg demo` on a few phantoms: every documented file exists and has the expected content.

use std::path::Path;

use crate::common::batches::json;
use crate::common::{SMALL, run, stderr};
use serde_json::Value;

#[test]
fn the_demo_writes_the_documented_files() {
    let folder = tempfile::tempdir().unwrap();
    let mut arguments = vec![
        "demo",
        "-o",
        "out",
        "--train",
        "4",
        "--test",
        "1",
        "--set",
        "training.epochs=1",
    ];
    arguments.extend(SMALL);
    let log = stderr(&run(folder.path(), &arguments, 0));
    for step in ["1/5", "2/5", "3/5", "4/5", "5/5"] {
        assert!(log.contains(step), "{log}");
    }
    let out = folder.path().join("out");
    assert_evaluated(&out);
    assert_reported(&out);

    let sidecar = json(&out.join("predictions/phantom_004.json"));
    assert_eq!(sidecar["input_sha256"].as_str().unwrap().len(), 64);
    assert!(sidecar["cascade"]["roi"]["end"].is_array(), "{sidecar}");
    assert_eq!(sidecar["volumes_ml"].as_object().unwrap().len(), 5);

    // The run folders are complete.
    for run in std::fs::read_dir(out.join("runs")).unwrap() {
        let run = run.unwrap().path();
        for file in ["recipe.toml", "run.toml", "metrics.jsonl", "log.txt"] {
            assert!(run.join(file).exists(), "{} lacks {file}", run.display());
        }
        assert!(run.join("checkpoints/fold_0/last.safetensors").exists());
        assert!(run.join("checkpoints/fold_0/best.safetensors").exists());
    }
    assert_inspected(folder.path());
}

fn assert_evaluated(out: &Path) {
    let summary = json(&out.join("summary.json"));
    assert_eq!(summary["cases"], 1);
    assert_eq!(summary["per_structure"].as_object().unwrap().len(), 5);
    assert!(summary["mean"]["accuracy"].as_f64().is_some(), "{summary}");
    assert!(summary["roi_recall"].as_f64().is_some(), "{summary}");
    let table = std::fs::read_to_string(out.join("metrics.csv")).unwrap();
    assert_eq!(table.lines().count(), 1 + 5, "{table}");
    assert!(
        table.starts_with("case,structure,label,dice,iou,precision,recall,specificity,accuracy"),
        "{table}"
    );
}

fn assert_reported(out: &Path) {
    let report = std::fs::read_to_string(out.join("report.html")).unwrap();
    for part in [
        "phantom_004",
        "view-0-image",
        "demo-coarse",
        "demo-refine",
        "Learning rate",
        "SHA-256",
    ] {
        assert!(report.contains(part), "{part}");
    }
    assert!(report.len() < 4_000_000, "{}", report.len());
}

/// The model, a volume and the data can be inspected.
fn assert_inspected(folder: &Path) {
    let layers = run_stdout(folder, &["inspect", "out/model"]);
    assert!(
        layers.contains("encoder.0.0") && layers.contains("stage 2"),
        "{layers}"
    );
    let json = run_stdout(folder, &["inspect", "out/model", "--json"]);
    let parsed: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(parsed["stages"].as_array().unwrap().len(), 2);
    let volume = run_stdout(folder, &["inspect", "out/data/images/phantom_000.nii.gz"]);
    assert!(
        volume.contains("HU histogram") && volume.contains("spacing"),
        "{volume}"
    );
    let data = run_stdout(folder, &["inspect", "out/data"]);
    assert!(
        data.contains("phantom_004") && data.contains("test") && data.contains("liver"),
        "{data}"
    );
}

fn run_stdout(folder: &Path, arguments: &[&str]) -> String {
    String::from_utf8(run(folder, arguments, 0).stdout).unwrap()
}

#[test]
fn too_few_phantoms_are_refused_before_any_is_made() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, expected) in [
        (
            ["demo", "--train", "3"],
            "--train 3 is too few: the recipe demo-refine has folds = 5; expected --train 5 or more, or lower folds with --set folds=3",
        ),
        (["demo", "--test", "0"], "--test 0: expected 1 or more"),
    ] {
        let log = stderr(&run(folder.path(), &arguments, 2));
        assert!(log.contains(expected), "{log}");
    }
    assert!(!folder.path().join("ctseg-demo").exists());
}
