//! `ctseg quantize` and `--precision int8` through the binary.

use std::path::Path;

use crate::common::{phantoms, run, run_json, stderr};

/// Trains both stages of a small model.
fn train(folder: &Path, data: &str) {
    let set = [
        "--set",
        "network.widths=[16, 32]",
        "--set",
        "spacing_mm=[14.0, 14.0, 14.0]",
        "--set",
        "training.batch_size=4",
        "--set",
        "training.augmentation.enabled=false",
    ];
    for stage in ["1", "refine2_5d"] {
        let folds = if stage == "1" { "folds=2" } else { "folds=4" };
        let mut fit = vec![
            "fit", "--stage", stage, "--data", data, "--epochs", "2", "--set", folds,
        ];
        fit.extend(set);
        run(folder, &fit, 0);
    }
}

#[test]
fn int8_needs_calibration_ranges_and_then_matches_f32() {
    let folder = tempfile::tempdir().unwrap();
    let data = phantoms(&folder.path().join("data"), 4, 2);
    let data = data.to_str().unwrap();
    train(folder.path(), data);
    let images = folder.path().join("data/images");
    let predict = [
        "predict",
        images.to_str().unwrap(),
        "-o",
        "out",
        "--precision",
        "int8",
    ];
    if !cfg!(feature = "libtorch") {
        let refused = stderr(&run(folder.path(), &predict, 2));
        assert!(refused.contains("flex computes in f32 only"), "{refused}");
        let refused = stderr(&run(folder.path(), &["calibrate", "--data", data], 2));
        assert!(refused.contains("8-bit integers"), "{refused}");
        return;
    }
    let refused = stderr(&run(folder.path(), &predict, 2));
    assert!(refused.contains("run 'ctseg quantize'"), "{refused}");
    let refused = stderr(&run(
        folder.path(),
        &["fit", "--stage", "1", "--data", data, "--precision", "int8"],
        2,
    ));
    assert!(refused.contains("is for prediction"), "{refused}");

    let summary = run_json(
        folder.path(),
        &["--json", "quantize", "--data", data, "--cases", "2"],
        0,
    );
    assert_eq!(summary["recorded"].as_array().unwrap().len(), 2);
    assert_eq!(summary["compared"].as_array().unwrap().len(), 2);
    let dice = |way: usize| summary["ways"][way]["mean_dice"].as_f64().unwrap_or(0.0);
    assert_eq!(summary["ways"][1]["precision"], "int8");
    assert!((dice(0) - dice(1)).abs() < 0.05, "{summary}");
    // The model is valid and predicts.
    let output = run(folder.path(), &predict, 0);
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("6 of 6"),
        "{output:?}"
    );
    let manifest = std::fs::read_to_string(folder.path().join("model/model.toml")).unwrap();
    assert_eq!(manifest.matches("input_ranges").count(), 3);
}
