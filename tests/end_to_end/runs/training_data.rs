//! Unusable training data, cases under several names, and what a refused fit leaves behind.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::batches::json;
use crate::common::{SMALL, run, stderr, tiny_ct};
use serde_json::Value;

const BOTH: &[u16] = &[1, 2];

/// Arguments of a small fit on `data` for one epoch.
fn fit<'a>(stage: &'a str, data: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let fit = ["fit", "--stage", stage, "--data", data, "--no-mlflow"];
    let flags = ["--device", "flex", "--set", "training.epochs=1"];
    [&fit[..], &flags, &SMALL, more].concat()
}

fn refused(folder: &Path, arguments: &[&str], code: i32, expected: &str) -> String {
    let log = stderr(&run(folder, arguments, code));
    assert!(log.contains(expected), "{expected}: {log}");
    let runs = folder.join("runs");
    assert!(!runs.exists(), "{arguments:?} left a run: {log}");
    assert!(!folder.join("model").exists());
    log
}

#[test]
fn a_refused_fit_leaves_no_run_folder() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    tiny_ct::dataset(&at("d"), &[BOTH; 4]);
    tiny_ct::dataset(&at("empty"), &[&[][..]; 4]);
    let refused = |arguments: &[&str], expected: &str| {
        refused(folder.path(), arguments, 1, expected);
    };
    refused(&fit("1", "empty", &[]), "no case holds a structure");
    refused(&fit("1", "d", &["--set", "folds=9"]), "patients");
    refused(&fit("2", "d", &[]), "is not a model");
    refused(&fit("1", "d", &["--from", "nowhere"]), "is not a model");
    let sweep = ["sweep", "--stage", "2", "--data", "d", "--device", "flex"];
    let vary = ["--vary", "training.optimiser.learning_rate=1e-3"];
    refused(&[&sweep[..], &vary].concat(), "is not a model");
    fs::write(at("d/labels/c1.nii.gz"), "no label map").unwrap();
    refused(&fit("1", "d", &[]), "c1.nii.gz");
    refused(&[&sweep[..], &vary].concat(), "c1.nii.gz");
}

const IDS: [&str; 4] = ["c0", "c1", "c2", "c3"];

/// A file in the only run of `runs`.
fn in_run(runs: &Path, name: &str) -> PathBuf {
    let first = runs.read_dir().unwrap().next().unwrap();
    first.unwrap().path().join(name)
}

/// The cases that fold 0 holds out of four with structures; the split depends only on their names.
fn held_out_by_fold_0(folder: &Path) -> Vec<String> {
    tiny_ct::dataset(&folder.join("all"), &[BOTH; 4]);
    let one = ["--fold", "0", "--model", "m0", "--runs", "r0"];
    run(folder, &fit("1", "all", &one), 0);
    let folds = json(&in_run(&folder.join("r0"), "splits.json"));
    let held_out = folds[0]["val"].as_array().unwrap().iter();
    held_out.map(|id| id.as_str().unwrap().to_owned()).collect()
}

#[test]
fn scores_without_structures_are_undefined() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let held_out = held_out_by_fold_0(folder.path());
    // Only one case has structures, and fold 0 trains on it.
    let only = IDS
        .iter()
        .position(|id| !held_out.contains(&(*id).to_owned()));
    let structures = [0, 1, 2, 3].map(|case| match Some(case) == only {
        true => BOTH,
        false => &[],
    });
    tiny_ct::dataset(&at("some"), &structures);
    let more = ["--fold", "0", "--json", "--set", "training.epochs=2"];
    let arguments = fit("1", "some", &more);
    let output = run(folder.path(), &arguments, 0);
    let log = stderr(&output);
    assert!(
        log.contains("fold 0: no held-out case holds a structure"),
        "{log}"
    );
    assert!(log.contains("validation Dice undefined"), "{log}");
    let text = String::from_utf8_lossy(&output.stdout);
    let summary: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(summary["folds"][0]["kept"]["epoch"], 2);
    assert_eq!(summary["folds"][0]["kept"]["validation_dice"], Value::Null);
    assert_eq!(summary["held_out_roi"]["mean_recall"], Value::Null);
    let manifest = fs::read_to_string(at("model/model.toml")).unwrap();
    assert!(!manifest.contains("validation_dice"), "{manifest}");
    let run_folder = in_run(&at("runs"), "");
    let shown = run(folder.path(), &["inspect", run_folder.to_str().unwrap()], 0);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    for text in [&log, &shown] {
        assert!(!text.contains("NaN") && !text.contains("-0.00"), "{text}");
    }
    // Fold 1 holds out the only case with structures, so it cannot train.
    let other = fit("1", "some", &["--fold", "1", "--runs", "r1"]);
    let log = stderr(&run(folder.path(), &other, 1));
    assert!(
        log.contains("no training case of fold 1 holds a structure"),
        "{log}"
    );
    assert!(!at("r1").exists());
}

#[test]
fn cases_with_structures_are_spread_over_the_folds() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let held_out = held_out_by_fold_0(folder.path());
    // The two cases with structures would be in the same fold.
    let two = IDS.map(|id| match held_out.contains(&id.to_owned()) {
        true => &[][..],
        false => BOTH,
    });
    tiny_ct::dataset(&at("two"), &two);
    let both = fit("1", "two", &["--runs", "r2", "--model", "m2"]);
    let log = stderr(&run(folder.path(), &both, 0));
    assert!(log.contains("patients with structures are spread"), "{log}");
    let folds = json(&in_run(&at("r2"), "splits.json"));
    let first = |fold: usize| {
        let held_out = folds[fold]["val"].as_array().unwrap().iter();
        let ids = held_out.map(|id| id.as_str().unwrap());
        ids.filter(|id| two[id[1..].parse::<usize>().unwrap()] == BOTH)
            .count()
    };
    assert_eq!((first(0), first(1)), (1, 1));
}

#[test]
fn cases_are_recognised_under_other_names() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    tiny_ct::dataset(&at("d"), &[BOTH; 4]);
    // A copy of c0 under another patient's name must stay in the same fold.
    tiny_ct::write_case(&at("d"), "z", 0, BOTH);
    let log = stderr(&run(folder.path(), &fit("1", "d", &[]), 0));
    assert!(log.contains("cases c0, z have the same image"), "{log}");
    let runs = at("runs").read_dir().unwrap();
    let first = runs.map(|entry| entry.unwrap().path()).next().unwrap();
    let folds = json(&first.join("splits.json"));
    for fold in folds.as_array().unwrap() {
        let held_out: Vec<&Value> = fold["val"].as_array().unwrap().iter().collect();
        let has = |id: &str| held_out.iter().any(|held_out| **held_out == *id);
        assert_eq!(has("c0"), has("z"), "{fold}");
    }
    // The same images under other names: each is predicted by the network that did not train on it.
    for number in 0..4 {
        tiny_ct::write_case(&at("renamed"), &format!("p{number}"), number, BOTH);
    }
    fs::copy(at("d/dataset.toml"), at("renamed/dataset.toml")).unwrap();
    let stage2 = [
        "--no-out-of-fold",
        "--fold",
        "0",
        "--set",
        "training.patches_per_epoch=8",
    ];
    let log = stderr(&run(folder.path(), &fit("2", "renamed", &stage2), 0));
    for renamed in ["p0 (as c0)", "p3 (as c3)"] {
        assert!(log.contains(renamed), "{log}");
    }
    // With only one fold, its network was trained on some of the images.
    let one = ["--fold", "0", "--model", "one"];
    run(folder.path(), &fit("1", "d", &one), 0);
    let stage2 = [&stage2[..], &["--model", "one", "--runs", "none"]].concat();
    let log = stderr(&run(folder.path(), &fit("2", "renamed", &stage2), 1));
    assert!(
        log.contains("the same image)") && !at("none").exists(),
        "{log}"
    );
    // A copy in the test set would invalidate the test.
    let descriptor = fs::read_to_string(at("d/dataset.toml")).unwrap();
    let tested = descriptor.replacen("[structures]", "test = [\"z\"]\n[structures]", 1);
    fs::write(at("d/dataset.toml"), tested).unwrap();
    let log = stderr(&run(folder.path(), &fit("1", "d", &["--runs", "none"]), 1));
    assert!(log.contains("in the test set as case 'z'"), "{log}");
}
