//! Calibration of saved probabilities: counted by hand, compared with NumPy, and with damaged files.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{ctseg, phantoms, publish_random, run, small_recipe, stderr};
use ctseg_image::metrics::calibration::Reliability;
use ctseg_image::nifti::{NiftiHeader, write_labels, write_maps};
use ctseg_image::space::{Grid, LabelMap};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

/// A curve of scripts/golden/make_reliability.py.
#[derive(Deserialize)]
struct Case {
    name: String,
    numerators: Vec<u32>,
    denominator: u32,
    inside: Vec<u64>,
    bin_voxels: Vec<u64>,
    bin_inside: Vec<u64>,
    mean_probability: Vec<Option<f64>>,
    ece: f64,
    mce: f64,
    brier: f64,
}

fn assert_equal(found: Option<f64>, expected: Option<f64>, what: &str) {
    match (found, expected) {
        (None, None) => {}
        (Some(a), Some(b)) if (a - b).abs() < 1e-12 => {}
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn curves_match_numpy() {
    let golden = include_str!("../../tests/golden/reliability/curves.json");
    let golden: Golden = serde_json::from_str(golden).unwrap();
    assert!(golden.cases.len() > 4);
    for case in golden.cases {
        let mut found = Reliability::default();
        for (numerator, inside) in case.numerators.iter().zip(&case.inside) {
            let probability = f64::from(*numerator) / f64::from(case.denominator);
            found.add(probability, 1 - inside, *inside);
        }
        let counts: (Vec<u64>, Vec<u64>) =
            found.bins().iter().map(|b| (b.voxels, b.inside)).unzip();
        assert_eq!(counts, (case.bin_voxels, case.bin_inside), "{}", case.name);
        for (bin, mean) in found.bins().iter().zip(case.mean_probability) {
            assert_equal(bin.mean_probability(), mean, &case.name);
        }
        assert_equal(
            found.expected_calibration_error(),
            Some(case.ece),
            &case.name,
        );
        assert_equal(
            found.maximum_calibration_error(),
            Some(case.mce),
            &case.name,
        );
        assert_equal(found.brier(), Some(case.brier), &case.name);
    }
}

/// Writes labels in a row of six voxels of 2.5 × 5 × 10 mm.
fn write_map(path: &Path, labels: [u16; 6]) {
    let grid = Grid::with_spacing([6, 1, 1], [2.5, 5.0, 10.0]);
    let data = ndarray::Array3::from_shape_vec((1, 1, 6), labels.to_vec()).unwrap();
    let header = NiftiHeader::for_grid(&grid).unwrap();
    write_labels(path, &LabelMap { grid, data }, &header).unwrap();
}

/// Writes probabilities of two structures, in steps of 1/255.
fn write_probabilities(path: &Path, codes: [[u8; 6]; 2]) {
    let grid = Grid::with_spacing([6, 1, 1], [2.5, 5.0, 10.0]);
    let header = NiftiHeader::for_grid(&grid).unwrap();
    write_maps(path, &header, 2, 1.0 / 255.0, codes.concat().as_slice()).unwrap();
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn assert_close(value: &Value, expected: f64) {
    let found = value.as_f64().unwrap_or(f64::NAN);
    assert!(
        (found - expected).abs() < 1e-9,
        "{found} instead of {expected}"
    );
}

#[test]
fn calibration_matches_hand_counts_without_ignored_voxels() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_map(&at("pred/a.nii.gz"), [1, 1, 0, 0, 0, 0]);
    write_map(&at("set/labels/a.nii.gz"), [1, 0, 7, 0, 0, 2]);
    write_map(&at("set/images/a.nii.gz"), [0; 6]);
    let text = "name = \"s\"\nimages = \"images/*.nii.gz\"\nlabels = \"labels/{case}.nii.gz\"\nignore = 7\n[structures]\none = 1\ntwo = 2\n";
    fs::write(at("set/set.toml"), text).unwrap();
    let codes = [[255, 204, 255, 0, 0, 0], [0, 0, 255, 0, 0, 51]];
    write_probabilities(&at("pred/a_probabilities.nii.gz"), codes);
    let output = run(
        folder.path(),
        &["evaluate", "pred", "set/set.toml", "-o", "out"],
        0,
    );
    let found = read(&at("out/calibration.json"));
    // One: 1.0 inside, 0.8 outside, three times 0 outside; the ignored voxel does not count.
    let one = &found["per_structure"]["one"]["whole"];
    assert_eq!(one["voxels"], 5);
    assert_close(&one["ece"], 0.8 / 5.0);
    assert_close(&one["mce"], 0.8);
    assert_close(&one["brier"], 0.64 / 5.0);
    assert_eq!(one["curve"][12]["voxels"], 1);
    assert_close(&one["curve"][12]["mean_probability"], 0.8);
    assert_eq!(one["curve"][5]["observed_share"], Value::Null);
    // Two: only 0.2 inside; five voxels are within 10 mm of it, one of them ignored.
    let two = &found["per_structure"]["two"];
    assert_eq!(
        (&two["near"]["voxels"], &two["whole"]["voxels"]),
        (&json!(4), &json!(5))
    );
    assert_close(&two["near"]["ece"], 0.8 / 4.0);
    assert_close(&two["whole"]["ece"], 0.8 / 5.0);
    assert_close(&found["mean"]["near"]["ece"], (0.8 / 5.0 + 0.8 / 4.0) / 2.0);
    assert_close(&found["pooled"]["whole"]["ece"], 1.6 / 10.0);
    assert_eq!(found["pooled"]["near"]["voxels"], 9);
    assert_close(
        &found["per_case"]["a"]["whole"]["brier"],
        (0.64 + 0.64) / 10.0,
    );
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(
        printed.contains("ECE 0.1800 near the structures (0.1600 in whole volumes)"),
        "{printed}"
    );
    assert!(
        fs::read(at("out/calibration.png"))
            .unwrap()
            .starts_with(b"\x89PNG")
    );
    // Without probabilities earlier calibration files are removed.
    fs::remove_file(at("pred/a_probabilities.nii.gz")).unwrap();
    run(
        folder.path(),
        &["evaluate", "pred", "set/set.toml", "-o", "out"],
        0,
    );
    assert!(!at("out/calibration.json").exists() && !at("out/calibration.png").exists());
    assert!(at("out/summary.json").exists());
}

#[test]
fn unusable_probabilities_are_listed_and_the_other_cases_evaluated() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["a", "b", "c", "d"] {
        write_map(&at(&format!("pred/{name}.nii.gz")), [1, 1, 0, 0, 2, 2]);
        write_map(&at(&format!("ref/{name}.nii.gz")), [1, 1, 0, 0, 0, 2]);
    }
    let codes = [[255, 204, 255, 0, 0, 0], [0, 0, 255, 0, 0, 51]];
    write_probabilities(&at("pred/a_probabilities.nii.gz"), codes);
    fs::write(at("pred/b_probabilities.npy"), b"no array").unwrap();
    let grid = Grid::with_spacing([6, 1, 1], [2.5, 5.0, 10.0]);
    let header = NiftiHeader::for_grid(&grid).unwrap();
    let three = at("pred/c_probabilities.nii.gz");
    write_maps(&three, &header, 3, 1.0 / 255.0, [0; 18].as_slice()).unwrap();
    let output = run(folder.path(), &["evaluate", "pred", "ref", "-o", "out"], 3);
    let log = stderr(&output);
    assert!(
        log.contains("b_probabilities.npy: not a NumPy array"),
        "{log}"
    );
    assert!(log.contains("holds 3 maps; expected 2"), "{log}");
    let found = read(&at("out/calibration.json"));
    assert_eq!(found["cases"], 1);
    assert_eq!(found["failed"].as_array().unwrap().len(), 2, "{found}");
    assert_eq!(found["without_probabilities"], json!(["d"]));
    assert_eq!(read(&at("out/summary.json"))["cases"], 4);
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("1 case, 2 failed")
    );
}

/// Predicts the phantoms with probabilities of this kind.
fn predict(here: &Path, kind: &str) {
    let arguments = ["predict", "data/images", "-o", kind, "--no-postprocess"];
    let save = format!("--save-probabilities={kind}");
    run(here, &[&arguments[..], &[&save]].concat(), 0);
}

/// Evaluates `kind` into `kind-threads/`; returns the calibration files.
fn evaluate(here: &Path, kind: &str, threads: &str) -> [Vec<u8>; 2] {
    let out = format!("{kind}-{threads}");
    let arguments = [
        "evaluate",
        kind,
        "data/labels",
        "-o",
        &out,
        "--threads",
        threads,
    ];
    let output = ctseg(here, &arguments).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    ["calibration.json", "calibration.csv"]
        .map(|name| fs::read(here.join(&out).join(name)).unwrap())
}

/// Fails unless NumPy finds the same calibration as in `kind-3/`.
fn assert_matches_numpy(here: &Path, kind: &str) {
    let Some(python) = std::env::var_os("CTSEG_TEST_PYTHON") else {
        println!("comparison skipped: CTSEG_TEST_PYTHON is not set to a Python with nibabel");
        return;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/check_calibration.py");
    let paths = [
        kind.to_owned(),
        "data/labels".to_owned(),
        format!("{kind}-3"),
    ];
    let output = Command::new(python)
        .arg(script)
        .args(paths.map(|path| here.join(path)))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn calibration_matches_numpy_for_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    phantoms(&here.join("data"), 2, 0);
    let set = [
        "spacing_mm=[9.0, 8.0, 7.0]",
        "train_folds=[0]",
        "outputs=independent",
        "training.loss=bce_dice",
    ];
    publish_random(&here.join("model"), &small_recipe("single", &set), &[&[]]);
    for kind in ["u8", "f16"] {
        predict(here, kind);
        let evaluate = |threads| evaluate(here, kind, threads);
        assert!(evaluate("1") == evaluate("3"), "{kind}: threads matter");
        assert_matches_numpy(here, kind);
    }
    // Both kinds exist, and only one belongs to this label map.
    fs::copy(
        here.join("f16/phantom_000_probabilities.npy"),
        here.join("u8/phantom_000_probabilities.npy"),
    )
    .unwrap();
    let again = ["evaluate", "u8", "data/labels", "-o", "again"];
    run(here, &again, 0);
    assert_eq!(
        read(&here.join("again/calibration.json")),
        read(&here.join("u8-3/calibration.json"))
    );
    // A file that has changed since the prediction is refused.
    let path = here.join("u8/phantom_001_probabilities.nii.gz");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let log = stderr(&run(here, &again, 3));
    assert!(log.contains("has changed since it was written"), "{log}");
    // Probabilities of an earlier run do not belong to new label maps.
    fs::write(&path, &whole).unwrap();
    run(
        here,
        &[
            "predict",
            "data/images",
            "-o",
            "u8",
            "--overwrite",
            "--no-postprocess",
        ],
        0,
    );
    let log = stderr(&run(here, &again, 3));
    assert!(
        log.contains("does not belong to the label map beside it"),
        "{log}"
    );
}
