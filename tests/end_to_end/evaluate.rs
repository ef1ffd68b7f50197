//! `ctseg evaluate` with label maps small enough to count by hand.

use std::path::Path;

use crate::common::{run, run_json, stderr};
use ctseg_image::nifti::{NiftiHeader, write_labels};
use ctseg_image::space::{Grid, LabelMap};
use serde_json::Value;

mod many_labels;
mod names;

/// A map of 4 × 1 × 1 voxels of 2 × 5 × 10 mm (0.1 mL).
fn write(path: &Path, labels: [u16; 4]) {
    let grid = Grid::with_spacing([4, 1, 1], [2.0, 5.0, 10.0]);
    let data = ndarray::Array3::from_shape_vec((1, 1, 4), labels.to_vec()).unwrap();
    write_labels(
        path,
        &LabelMap { grid, data },
        &NiftiHeader::for_grid(&grid).unwrap(),
    )
    .unwrap();
}

/// Columns of `metrics.csv` with their first and last values.
const CELLS: [(&str, &str, &str); 18] = [
    ("case", "a", "b"),
    ("structure", "structure_1", "structure_2"),
    ("label", "1", "2"),
    ("dice", "0.666667", ""),
    ("iou", "0.500000", ""),
    ("precision", "0.500000", ""),
    ("recall", "1.000000", ""),
    ("specificity", "0.666667", "1.000000"),
    ("accuracy", "0.750000", "1.000000"),
    ("reference_ml", "0.100000", "0.000000"),
    ("prediction_ml", "0.200000", "0.000000"),
    ("volume_error_ml", "0.100000", "0.000000"),
    ("relative_volume_error", "1.000000", ""),
    // The second voxel, 2 mm from the first, is false positive.
    ("hausdorff_mm", "2.000000", ""),
    ("centroid_distance_mm", "1.000000", ""),
    ("lesion_f1", "1.000000", ""),
    ("lesions_reference", "1.000000", "0.000000"),
    ("roi_recall", "", ""),
];

#[test]
fn scores_match_hand_counts_and_undefined_ones_are_omitted() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write(&at("pred/a.nii.gz"), [1, 1, 0, 2]);
    write(&at("ref/a.nii.gz"), [1, 0, 0, 2]);
    write(&at("pred/b.nii.gz"), [0, 1, 0, 0]); // no 2 in either: undefined
    write(&at("ref/b.nii.gz"), [1, 1, 1, 0]);
    write(&at("ref/c.nii.gz"), [1, 1, 1, 0]);
    let output = run(folder.path(), &["evaluate", "pred", "ref", "-o", "out"], 0);
    assert!(
        stderr(&output).contains("skipped: c"),
        "{}",
        stderr(&output)
    );
    let summary: Value =
        serde_json::from_slice(&std::fs::read(at("out/summary.json")).unwrap()).unwrap();
    let close = |value: &Value, expected: f64| {
        let value = value.as_f64().unwrap_or(f64::NAN);
        assert!(
            (value - expected).abs() < 1e-9,
            "{value} instead of {expected}"
        );
    };
    let one = &summary["per_structure"]["structure_1"];
    close(&one["dice"], (2.0 / 3.0 + 0.5) / 2.0);
    close(&one["iou"], (0.5 + 1.0 / 3.0) / 2.0);
    close(&one["precision"], (0.5 + 1.0) / 2.0);
    close(&one["recall"], (1.0 + 1.0 / 3.0) / 2.0);
    close(&one["accuracy"], (0.75 + 0.5) / 2.0);
    let two = &summary["per_structure"]["structure_2"];
    close(&two["dice"], 1.0);
    assert_eq!(
        (&two["defined"], &two["undefined"]),
        (&Value::from(1), &Value::from(1))
    );
    close(
        &summary["mean"]["dice"],
        ((2.0 / 3.0 + 0.5) / 2.0 + 1.0) / 2.0,
    );
    assert_eq!(summary["cases"], 2);
    assert_eq!(summary["missing_predictions"], serde_json::json!(["c"]));
    assert_eq!(summary["roi_recall"], Value::Null);
    let table = std::fs::read_to_string(at("out/metrics.csv")).unwrap();
    let mut table = csv::Reader::from_reader(table.as_bytes());
    let header = table.headers().unwrap().clone();
    let rows: Vec<csv::StringRecord> = table.records().map(Result::unwrap).collect();
    let cell = |row: usize, name: &str| {
        let column = header.iter().position(|column| column == name).unwrap();
        rows[row][column].to_owned()
    };
    for (name, first, last) in CELLS {
        assert_eq!(
            (cell(0, name).as_str(), cell(3, name).as_str()),
            (first, last),
            "{name}"
        );
    }
}

#[test]
fn a_failed_case_is_listed_and_the_others_compared() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write(&at("pred/a.nii.gz"), [1, 1, 0, 2]);
    write(&at("ref/a.nii.gz"), [1, 0, 0, 2]);
    write(&at("pred/unknown.nii.gz"), [1, 1, 0, 2]);
    std::fs::write(at("pred/broken.nii.gz"), b"no").unwrap();
    write(&at("ref/broken.nii.gz"), [1, 0, 0, 2]);
    let summary = run_json(folder.path(), &["evaluate", "pred", "ref", "--json"], 3);
    assert_eq!(summary["cases"], 1);
    assert_eq!(summary["failed"].as_array().unwrap().len(), 2);
    assert!(
        at("pred/summary.json").exists(),
        "without -o the files lie beside the label maps"
    );
    run(folder.path(), &["evaluate", "nowhere", "ref"], 1);
    // Two single files are compared whatever their names.
    run(
        folder.path(),
        &[
            "evaluate",
            "pred/a.nii.gz",
            "ref/broken.nii.gz",
            "-o",
            "pair",
        ],
        0,
    );
}

#[test]
fn predictions_match_dataset_cases_by_id_or_unique_name() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    // nnU-Net raw: the image is a_0000, the case a.
    std::fs::create_dir(at("raw")).unwrap();
    let description = r#"{"channel_names": {"0": "CT"}, "labels": {"background": 0, "one": 1, "two": 2},
        "numTraining": 1, "file_ending": ".nii.gz"}"#;
    std::fs::write(at("raw/dataset.json"), description).unwrap();
    write(&at("raw/imagesTr/a_0000.nii.gz"), [9, 9, 9, 9]);
    write(&at("raw/labelsTr/a.nii.gz"), [1, 0, 0, 2]);
    write(&at("pred/a_0000.nii.gz"), [1, 0, 0, 2]);
    let json = |arguments: &[&str], code| -> Value { run_json(folder.path(), arguments, code) };
    let summary = json(&["evaluate", "pred", "raw", "--json"], 0);
    assert_eq!(summary["per_structure"]["one"]["dice"], 1.0);
    assert_eq!(summary["missing_predictions"], serde_json::json!([]));

    // TotalSegmentator: every image is ct.nii.gz; only the folder identifies the case.
    for (case, labels) in [("s0", [1, 0, 0, 0]), ("s1", [0, 1, 1, 0])] {
        write(&at(&format!("total/{case}/ct.nii.gz")), [9, 9, 9, 9]);
        write(
            &at(&format!("total/{case}/segmentations/one.nii.gz")),
            labels,
        );
    }
    write(&at("by_id/s1.nii.gz"), [0, 1, 1, 0]);
    let summary = json(&["evaluate", "by_id", "total", "--json"], 0);
    assert_eq!(summary["per_structure"]["one"]["dice"], 1.0);
    assert_eq!(summary["missing_predictions"], serde_json::json!(["s0"]));
    write(&at("by_image/ct.nii.gz"), [0, 1, 1, 0]);
    let summary = json(&["evaluate", "by_image", "total", "--json"], 1);
    assert!(
        summary["failed"].to_string().contains("no reference"),
        "{summary}"
    );
}

#[test]
fn ignored_voxels_are_not_compared() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write(&at("pred/a.nii.gz"), [1, 1, 1, 0]);
    write(&at("set/labels/a.nii.gz"), [1, 0, 7, 7]);
    write(&at("set/images/a.nii.gz"), [0; 4]);
    let text = "name = \"s\"\nimages = \"images/*.nii.gz\"\nlabels = \"labels/{case}.nii.gz\"\nignore = 7\n[structures]\nliver = 1\n";
    std::fs::write(at("set/set.toml"), text).unwrap();
    run(
        folder.path(),
        &["evaluate", "pred", "set/set.toml", "-o", "out"],
        0,
    );
    let summary: Value =
        serde_json::from_slice(&std::fs::read(at("out/summary.json")).unwrap()).unwrap();
    let liver = &summary["per_structure"]["liver"];
    // Of the two voxels that count, one is correct and one false positive.
    for (metric, expected) in [("dice", 2.0 / 3.0), ("recall", 1.0), ("accuracy", 0.5)] {
        let found = liver[metric].as_f64().unwrap_or(f64::NAN);
        assert!((found - expected).abs() < 1e-9, "{metric}: {summary}");
    }
}

/// The JSON summary of `ctseg evaluate` with these arguments.
fn summary(folder: &Path, arguments: &[&str]) -> Value {
    let arguments: Vec<&str> = ["--json", "evaluate"]
        .iter()
        .chain(arguments)
        .copied()
        .collect();
    run_json(folder, &arguments, 0)
}

#[test]
fn surface_dice_uses_the_tolerance_of_its_structure() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write(&at("pred/a.nii.gz"), [1, 1, 2, 2]);
    write(&at("ref/a.nii.gz"), [1, 0, 2, 0]);
    let dice = |arguments: &[&str], structure: &str| {
        let all: Vec<&str> = ["pred", "ref"].iter().chain(arguments).copied().collect();
        let found = summary(folder.path(), &all);
        found["per_structure"][structure]["surface_dice"]
            .as_f64()
            .unwrap()
    };
    // Everything lies within the default 2 mm, a voxel here.
    assert_eq!(dice(&[], "structure_1"), 1.0);
    assert!(dice(&["--tolerance", "1"], "structure_1") < 0.95);
    let own = ["--tolerance", "3,structure_2=0.5"];
    assert_eq!(dice(&own, "structure_1"), 1.0);
    assert!(dice(&own, "structure_2") < 0.95);
    let output = run(
        folder.path(),
        &["evaluate", "pred", "ref", "--tolerance", "liver"],
        2,
    );
    assert!(
        stderr(&output).contains("'liver' is not a tolerance"),
        "{}",
        stderr(&output)
    );
}

/// References in `ref/`, and the label maps of two models in `good/` and `other/`.
fn two_models(folder: &Path) {
    let at = |name: &str| folder.join(name);
    for case in 0..6 {
        let name = |model: &str| at(&format!("{model}/case_{case}.nii.gz"));
        write(&name("ref"), [1, 1, 0, 2]);
        write(&name("good"), [1, 1, 0, 2]);
        // Always worse in one structure; in the other only in half of the cases.
        write(&name("other"), [1, 0, 0, if case < 3 { 2 } else { 0 }]);
    }
    // A case of only one model does not count.
    write(&at("ref/only.nii.gz"), [1, 1, 1, 1]);
    write(&at("good/only.nii.gz"), [0, 1, 0, 0]);
}

#[test]
fn two_models_are_compared_case_by_case() {
    let folder = tempfile::tempdir().unwrap();
    two_models(folder.path());
    let found = summary(
        folder.path(),
        &["good", "ref", "--against", "other", "-o", "out"],
    );
    let row = |metric: &str, structure: &str| {
        let rows = found["against"].as_array().unwrap();
        let is_it = |row: &&Value| row["metric"] == metric && row["structure"] == structure;
        rows.iter().find(is_it).unwrap().clone()
    };
    let one = row("dice", "structure_1");
    assert_eq!(
        (&one["cases"], &one["better"], &one["worse"]),
        (&6.into(), &6.into(), &0.into())
    );
    let close = |value: &Value, expected: f64| (value.as_f64().unwrap() - expected).abs() < 1e-9;
    assert!(
        close(&one["mean"], 1.0) && close(&one["mean_against"], 2.0 / 3.0),
        "{one}"
    );
    // Of the 64 combinations of signs 2 are as extreme; this structure has the lower p of the two.
    assert!(
        close(&one["p"], 2.0 / 64.0) && close(&one["p_holm"], 4.0 / 64.0),
        "{one}"
    );
    let two = row("dice", "structure_2");
    assert!(
        close(&two["p"], 0.25) && close(&two["mean_difference"], 0.5),
        "{two}"
    );
    // If the other model found nothing, there is no distance to compare.
    let distance = row("hd95_mm", "structure_2");
    assert_eq!(
        (&distance["cases"], &distance["unpaired"]),
        (&3.into(), &3.into())
    );
    let all = row("dice", "all");
    assert!(
        close(&all["mean_against"], (5.0 * 3.0 / 6.0 + 3.0 / 3.0) / 6.0),
        "{all}"
    );
    let table = std::fs::read_to_string(folder.path().join("out/against.csv")).unwrap();
    assert_eq!(
        table.lines().count(),
        1 + found["against"].as_array().unwrap().len()
    );
    let printed = run(
        folder.path(),
        &["evaluate", "good", "ref", "--against", "other"],
        0,
    );
    let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
    assert!(
        printed.contains("p (Holm)") && printed.contains("worst mean Dice: only"),
        "{printed}"
    );
}

#[test]
fn two_hundred_pairs_are_compared_and_failures_listed() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: String| folder.path().join(name);
    for case in 0..200 {
        write(&at(format!("ref/case_{case:03}.nii.gz")), [1, 1, 0, 2]);
        if case != 17 {
            write(&at(format!("pred/case_{case:03}.nii.gz")), [1, 1, 0, 2]);
        }
    }
    write(&at("pred/stranger.nii.gz".to_owned()), [1, 1, 0, 2]);
    std::fs::write(at("pred/case_150.nii.gz".to_owned()), b"no NIfTI file").unwrap();
    let output = run(folder.path(), &["evaluate", "pred", "ref"], 3);
    let found: Value =
        serde_json::from_slice(&std::fs::read(at("pred/summary.json".to_owned())).unwrap())
            .unwrap();
    assert_eq!(found["cases"], 198);
    assert_eq!(
        found["missing_predictions"],
        serde_json::json!(["case_017"])
    );
    let failed: Vec<&str> = found["failed"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|f| f["input"].as_str())
        .collect();
    assert_eq!(failed, ["pred/case_150.nii.gz", "pred/stranger.nii.gz"]);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        printed.contains("198 cases compared, 2 failed, 1 reference without"),
        "{printed}"
    );
    // In the order of the cases, whichever finished first.
    let cases = found["compared"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["case"].as_str().unwrap());
    assert!(cases.clone().is_sorted() && cases.count() == 198);
}
