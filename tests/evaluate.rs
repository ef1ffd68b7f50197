//! `ctseg evaluate` on label maps small enough to count by hand.

mod common;

use std::path::Path;

use common::{run, stderr};
use ctseg::arrays::nifti::{NiftiHeader, write_labels};
use ctseg::values::{Grid, LabelMap};
use serde_json::Value;

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

#[test]
fn scores_are_those_counted_by_hand_and_undefined_ones_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write(&at("pred/a.nii.gz"), [1, 1, 0, 2]);
    write(&at("ref/a.nii.gz"), [1, 0, 0, 2]);
    write(&at("pred/b.nii.gz"), [0, 1, 0, 0]); // no 2 in either: undefined
    write(&at("ref/b.nii.gz"), [1, 1, 1, 0]);
    write(&at("ref/c.nii.gz"), [1, 1, 1, 0]);
    let output = run(folder.path(), &["evaluate", "pred", "ref", "-o", "out"], 0);
    assert!(
        stderr(&output).contains("left out: c"),
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
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(
        rows[1],
        "a,structure_1,1,0.666667,0.500000,0.500000,1.000000,0.750000,0.1000,0.2000,"
    );
    assert_eq!(rows[4], "b,structure_2,2,,,,,1.000000,0.0000,0.0000,");
}

#[test]
fn a_case_that_cannot_be_compared_is_listed_and_costs_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write(&at("pred/a.nii.gz"), [1, 1, 0, 2]);
    write(&at("ref/a.nii.gz"), [1, 0, 0, 2]);
    write(&at("pred/unknown.nii.gz"), [1, 1, 0, 2]);
    std::fs::write(at("pred/broken.nii.gz"), b"no").unwrap();
    write(&at("ref/broken.nii.gz"), [1, 0, 0, 2]);
    let output = run(folder.path(), &["evaluate", "pred", "ref", "--json"], 3);
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
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
fn predictions_find_their_case_of_a_dataset_by_id_or_by_a_name_that_is_its_alone() {
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
    let json = |arguments: &[&str], code| -> Value {
        serde_json::from_slice(&run(folder.path(), arguments, code).stdout).unwrap()
    };
    let summary = json(&["evaluate", "pred", "raw", "--json"], 0);
    assert_eq!(summary["per_structure"]["one"]["dice"], 1.0);
    assert_eq!(summary["missing_predictions"], serde_json::json!([]));

    // TotalSegmentator: every image is ct.nii.gz; only the folder tells the case.
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
fn voxels_that_the_dataset_ignores_are_not_compared() {
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
    // Of two voxels that count one is right, one predicted in vain.
    for (metric, expected) in [("dice", 2.0 / 3.0), ("recall", 1.0), ("accuracy", 0.5)] {
        let found = liver[metric].as_f64().unwrap_or(f64::NAN);
        assert!((found - expected).abs() < 1e-9, "{metric}: {summary}");
    }
}
