//! Inputs of `predict`: names of any bytes, numbered names, name clashes, datasets. Models have random weights.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::common::batches::{ball, json, small_grid};
use crate::common::{ctseg, random_model, run, run_json, stderr};
use ctseg_image::nifti::{NiftiHeader, VoxelType, write_labels, write_volume};
use ctseg_image::space::LabelMap;
use serde_json::{Value, json};

fn write(path: &Path) {
    write_volume(path, &ball(0, small_grid()), VoxelType::I16).unwrap();
}

/// Names of the label maps in `folder` as bytes, without masks.
fn maps(folder: &Path) -> BTreeSet<Vec<u8>> {
    let entries = folder.read_dir().unwrap().map(|entry| entry.unwrap());
    let files = entries.filter(|entry| entry.path().is_file());
    let names = files.map(|entry| entry.file_name().into_vec());
    names
        .filter(|name| name.ends_with(b".nii") || name.ends_with(b".nii.gz"))
        .collect()
}

/// Numbers of cases written, kept and failed.
fn counts(folder: &Path, arguments: &[&str], code: i32) -> [usize; 3] {
    let arguments = [&["predict"], arguments, &["--json"]].concat();
    let summary = run_json(folder, &arguments, code);
    ["written", "kept", "failed"].map(|what| summary[what].as_array().unwrap().len())
}

/// The names of the volumes in `in`.
const NAMES: [&[u8]; 9] = [
    b"M\xfcller.nii.gz",
    b"M\xf6ller.nii.gz",
    b"v_0000.nii",
    b"v_0001.nii",
    b"w_0000.nii.gz",
    b"x.nii/x.nii",
    "größe [1]*.nii".as_bytes(),
    b"b.nii",
    b"b.nii.gz",
];

/// The names of the label maps, without the pair that clashes.
const MAPS: [&[u8]; 7] = [
    b"M\xfcller.nii.gz",
    b"M\xf6ller.nii.gz",
    b"v_0000.nii",
    b"v_0001.nii",
    b"w.nii.gz",
    b"x.nii",
    "größe [1]*.nii".as_bytes(),
];

fn expected() -> BTreeSet<Vec<u8>> {
    MAPS.iter().map(|name| name.to_vec()).collect()
}

/// Writes volumes with these names, and a model.
fn prepared(folder: &Path) {
    random_model(&folder.join("model"), &[]);
    std::fs::create_dir_all(folder.join("in/x.nii")).unwrap();
    for name in NAMES {
        write(&folder.join("in").join(OsStr::from_bytes(name)));
    }
}

#[test]
fn every_volume_of_a_folder_is_a_case_regardless_of_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    prepared(folder.path());
    let wanted = ["in", "-o", "out", "--statistics", "--preview", "--split"];
    assert_eq!(counts(folder.path(), &wanted, 3), [7, 0, 2]);
    assert_eq!(maps(&at("out")), expected());
    for beside in [
        &b"M\xfcller.json"[..],
        b"M\xfcller_preview.png",
        b"M\xfcller/liver.nii.gz",
    ] {
        assert!(at("out").join(OsStr::from_bytes(beside)).exists());
    }
    let manifest = json(&at("out/predictions.json"));
    assert_eq!(
        manifest["counts"],
        json!({"done": 7, "kept": 0, "failed": 2, "pending": 0})
    );
    assert_eq!(manifest["cases"][0]["output"], "out/M\\xF6ller.nii.gz");
    let failures = std::fs::read_to_string(at("out/failures.jsonl")).unwrap();
    assert!(
        failures.lines().count() == 2 && failures.contains("same name as that of in/b.nii.gz;"),
        "{failures}"
    );
    let table = std::fs::read_to_string(at("out/statistics.csv")).unwrap();
    assert!(
        table.contains("\nM\\xFCller,") && table.contains("\nM\\xF6ller,"),
        "{table}"
    );
    // Run again, everything is kept.
    assert_eq!(counts(folder.path(), &wanted, 3), [0, 7, 2]);
}

#[test]
fn claims_and_evaluation_work_with_names_of_any_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    prepared(folder.path());
    let shared = ["in", "-o", "shared", "--claim", "claims"];
    assert_eq!(counts(folder.path(), &shared, 3), [7, 0, 2]);
    assert_eq!(maps(&at("shared")), expected());
    let evaluated = run(
        folder.path(),
        &["evaluate", "shared", "shared", "-o", "ev", "--json"],
        0,
    );
    let found: Value = serde_json::from_slice(&evaluated.stdout).unwrap();
    assert_eq!(
        (&found["cases"], &found["mean"]["dice"]),
        (&json!(7), &json!(1.0))
    );
    // Also with masks only.
    let masks = [
        "in/v_0000.nii",
        "in/v_0001.nii",
        "-o",
        "masks",
        "--split",
        "--no-label-map",
    ];
    assert_eq!(counts(folder.path(), &masks, 0), [2, 0, 0]);
    assert_eq!(maps(&at("masks")), BTreeSet::new());
    run(
        folder.path(),
        &["evaluate", "masks", "shared", "-o", "ev"],
        0,
    );
    let found = json(&at("ev/summary.json"));
    assert_eq!(
        (&found["cases"], &found["mean"]["dice"]),
        (&json!(2), &json!(1.0))
    );
    // By a pattern, and by a name from the shell.
    assert_eq!(
        counts(folder.path(), &["in/M*.nii.gz", "-o", "matched"], 0),
        [2, 0, 0]
    );
    let output = ctseg(folder.path(), &["predict", "-o", "named"])
        .arg(Path::new("in").join(OsStr::from_bytes(NAMES[0])))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(maps(&at("named")), BTreeSet::from([NAMES[0].to_vec()]));
}

#[test]
fn the_images_of_a_dataset_are_segmented_and_matched_with_its_cases() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    random_model(&at("model"), &[]);
    let grid = small_grid();
    let mut labels = LabelMap::empty(grid);
    labels.data[[3, 3, 3]] = 1;
    let label = |path: PathBuf| {
        write_labels(&path, &labels, &NiftiHeader::for_grid(&grid).unwrap()).unwrap();
    };
    for case in ["s0001", "s0002"] {
        write(&at(&format!("total/{case}/ct.nii.gz")));
        label(at(&format!("total/{case}/segmentations/liver.nii.gz")));
        write(&at(&format!("plain/images/{case}_0000.nii.gz")));
        label(at(&format!("plain/labels/{case}_0000.nii.gz")));
    }
    for (dataset, layout) in [("total", "TotalSegmentator"), ("plain", "images + labels")] {
        let output = run(
            folder.path(),
            &["predict", dataset, "-o", "out", "--overwrite"],
            0,
        );
        let log = stderr(&output);
        let note = format!("{dataset}: dataset ({layout}); segmenting its 2 images");
        assert!(log.contains(&note), "{log}");
        let expected = ["s0001.nii.gz", "s0002.nii.gz"].map(|name| name.as_bytes().to_vec());
        assert_eq!(maps(&at("out")), BTreeSet::from(expected));
        run(folder.path(), &["evaluate", "out", dataset, "-o", "ev"], 0);
        assert_eq!(
            json(&at("ev/summary.json"))["missing_predictions"],
            json!([])
        );
    }
    // Also one image of the dataset.
    run(
        folder.path(),
        &["predict", "total/s0002/ct.nii.gz", "-o", "one"],
        0,
    );
    assert_eq!(maps(&at("one")), BTreeSet::from([b"s0002.nii.gz".to_vec()]));
}
