//! Calibration of saved probabilities: by hand, against NumPy, and where files are damaged.

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

fn close(found: Option<f64>, expected: Option<f64>, what: &str) {
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
            close(bin.mean_probability(), mean, &case.name);
        }
        close(
            found.expected_calibration_error(),
            Some(case.ece),
            &case.name,
        );
        close(
            found.maximum_calibration_error(),
            Some(case.mce),
            &case.name,
        );
        close(found.brier(), Some(case.brier), &case.name);
    }
}

/// A row of six voxels of 2.5 × 5 × 10 mm.
fn labels(path: &Path, labels: [u16; 6]) {
    let grid = Grid::with_spacing([6, 1, 1], [2.5, 5.0, 10.0]);
    let data = ndarray::Array3::from_shape_vec((1, 1, 6), labels.to_vec()).unwrap();
    let header = NiftiHeader::for_grid(&grid).unwrap();
    write_labels(path, &LabelMap { grid, data }, &header).unwrap();
}

/// Probabilities of two structures, in steps of 1/255.
fn probabilities(path: &Path, codes: [[u8; 6]; 2]) {
    let grid = Grid::with_spacing([6, 1, 1], [2.5, 5.0, 10.0]);
    let header = NiftiHeader::for_grid(&grid).unwrap();
    write_maps(path, &header, 2, 1.0 / 255.0, codes.concat().as_slice()).unwrap();
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn figure(value: &Value, expected: f64) {
    let found = value.as_f64().unwrap_or(f64::NAN);
    assert!(
        (found - expected).abs() < 1e-9,
        "{found} instead of {expected}"
    );
}

#[test]
fn figures_are_those_counted_by_hand_and_ignored_voxels_are_not_counted() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    labels(&at("pred/a.nii.gz"), [1, 1, 0, 0, 0, 0]);
    labels(&at("set/labels/a.nii.gz"), [1, 0, 7, 0, 0, 2]);
    labels(&at("set/images/a.nii.gz"), [0; 6]);
    let text = "name = \"s\"\nimages = \"images/*.nii.gz\"\nlabels = \"labels/{case}.nii.gz\"\nignore = 7\n[structures]\none = 1\ntwo = 2\n";
    fs::write(at("set/set.toml"), text).unwrap();
    let codes = [[255, 204, 255, 0, 0, 0], [0, 0, 255, 0, 0, 51]];
    probabilities(&at("pred/a_probabilities.nii.gz"), codes);
    let told = run(
        folder.path(),
        &["evaluate", "pred", "set/set.toml", "-o", "out"],
        0,
    );
    let found = read(&at("out/calibration.json"));
    // One: 1.0 inside, 0.8 outside, three times 0 outside; the ignored voxel counts nowhere.
    let one = &found["per_structure"]["one"]["whole"];
    assert_eq!(one["voxels"], 5);
    figure(&one["ece"], 0.8 / 5.0);
    figure(&one["mce"], 0.8);
    figure(&one["brier"], 0.64 / 5.0);
    assert_eq!(one["curve"][12]["voxels"], 1);
    figure(&one["curve"][12]["mean_probability"], 0.8);
    assert_eq!(one["curve"][5]["observed_share"], Value::Null);
    // Two: only 0.2 inside; near it are the five voxels within 10 mm, of which one is ignored.
    let two = &found["per_structure"]["two"];
    assert_eq!(
        (&two["near"]["voxels"], &two["whole"]["voxels"]),
        (&json!(4), &json!(5))
    );
    figure(&two["near"]["ece"], 0.8 / 4.0);
    figure(&two["whole"]["ece"], 0.8 / 5.0);
    figure(&found["mean"]["near"]["ece"], (0.8 / 5.0 + 0.8 / 4.0) / 2.0);
    figure(&found["pooled"]["whole"]["ece"], 1.6 / 10.0);
    assert_eq!(found["pooled"]["near"]["voxels"], 9);
    figure(
        &found["per_case"]["a"]["whole"]["brier"],
        (0.64 + 0.64) / 10.0,
    );
    let said = String::from_utf8(told.stdout).unwrap();
    assert!(
        said.contains("ECE 0.1800 near the structures (0.1600 in whole volumes)"),
        "{said}"
    );
    assert!(
        fs::read(at("out/calibration.png"))
            .unwrap()
            .starts_with(b"\x89PNG")
    );
    // Without probabilities nothing is left that would tell of others.
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
fn probabilities_that_cannot_be_used_are_listed_and_cost_no_other_case() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["a", "b", "c", "d"] {
        labels(&at(&format!("pred/{name}.nii.gz")), [1, 1, 0, 0, 2, 2]);
        labels(&at(&format!("ref/{name}.nii.gz")), [1, 1, 0, 0, 0, 2]);
    }
    let codes = [[255, 204, 255, 0, 0, 0], [0, 0, 255, 0, 0, 51]];
    probabilities(&at("pred/a_probabilities.nii.gz"), codes);
    fs::write(at("pred/b_probabilities.npy"), b"no array").unwrap();
    let grid = Grid::with_spacing([6, 1, 1], [2.5, 5.0, 10.0]);
    let header = NiftiHeader::for_grid(&grid).unwrap();
    let three = at("pred/c_probabilities.nii.gz");
    write_maps(&three, &header, 3, 1.0 / 255.0, [0; 18].as_slice()).unwrap();
    let told = run(folder.path(), &["evaluate", "pred", "ref", "-o", "out"], 3);
    let said = stderr(&told);
    assert!(
        said.contains("b_probabilities.npy: not a NumPy array"),
        "{said}"
    );
    assert!(said.contains("holds 3 maps; expected 2"), "{said}");
    let found = read(&at("out/calibration.json"));
    assert_eq!(found["cases"], 1);
    assert_eq!(found["failed"].as_array().unwrap().len(), 2, "{found}");
    assert_eq!(found["without_probabilities"], json!(["d"]));
    assert_eq!(read(&at("out/summary.json"))["cases"], 4);
    assert!(
        String::from_utf8(told.stdout)
            .unwrap()
            .contains("1 case, 2 failed")
    );
}

/// A model of random weights and what it says of two phantoms.
fn predicted(here: &Path, kind: &str) {
    let arguments = ["predict", "data/images", "-o", kind, "--no-postprocess"];
    let save = format!("--save-probabilities={kind}");
    run(here, &[&arguments[..], &[&save]].concat(), 0);
}

/// What is written of the calibration of `kind`, into `kind-threads/`.
fn evaluated(here: &Path, kind: &str, threads: &str) -> [Vec<u8>; 2] {
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

/// Fails unless numpy finds the figures in `kind-3/`.
fn assert_numpys(here: &Path, kind: &str) {
    let Some(python) = std::env::var_os("CTSEG_TEST_PYTHON") else {
        println!("the comparison is left out: CTSEG_TEST_PYTHON names no Python with nibabel");
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
fn figures_are_numpys_and_do_not_depend_on_threads() {
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
        predicted(here, kind);
        let evaluated = |threads| evaluated(here, kind, threads);
        assert!(evaluated("1") == evaluated("3"), "{kind}: threads matter");
        assert_numpys(here, kind);
    }
    // Both kinds lie there, and only one is of this label map.
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
    // Of what was written with it, nothing may have changed since.
    let path = here.join("u8/phantom_001_probabilities.nii.gz");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let said = stderr(&run(here, &again, 3));
    assert!(said.contains("has changed since it was written"), "{said}");
    // Label maps that were made again have no probabilities of the run before.
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
    let said = stderr(&run(here, &again, 3));
    assert!(
        said.contains("does not belong to the label map beside it"),
        "{said}"
    );
}
