//! Processes that share a list of cases, by claims or by shards.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Stdio};

use crate::common::batches::{
    assert_kept, assert_same_results, batch, files, json, sidecars, wait_until,
};
use crate::common::{ctseg, run, run_json, stderr};
use serde_json::Value;

/// Starts a process that shares the cases with others.
fn claiming(folder: &Path, images: &str) -> Child {
    let arguments = [
        "predict", images, "-o", "out", "--claim", "claims", "--json",
    ];
    ctseg(folder, &arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The outputs that the processes report; waits until all have succeeded.
fn written(processes: Vec<Child>, code: i32) -> Vec<String> {
    let mut all = Vec::new();
    for process in processes {
        let output = process.wait_with_output().unwrap();
        let summary: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", stderr(&output)));
        let code = if summary["failed"].as_array().unwrap().is_empty() {
            0
        } else {
            code
        };
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        let names = summary["written"].as_array().unwrap().iter();
        all.extend(names.map(|name| name.as_str().unwrap().to_owned()));
    }
    all.sort();
    all
}

#[test]
fn four_processes_take_each_case_once() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    batch(folder.path(), 24);
    std::fs::write(at("images/bad.nii.gz"), "no volume").unwrap();
    let processes = (0..4).map(|_| claiming(folder.path(), "images")).collect();
    let all: Vec<String> = (0..24)
        .map(|index| format!("out/case_{index:02}.nii.gz"))
        .collect();
    assert_eq!(written(processes, 3), all);
    assert_eq!(files(&at("claims"), ".claim-1").len(), 25);
    assert!(files(&at("claims"), ".claim-2").is_empty());
    // The last process writes the complete manifest.
    let counts = serde_json::json!({"done": 24, "kept": 0, "failed": 1, "pending": 0});
    assert_eq!(json(&at("out/predictions.json"))["counts"], counts);
    let failures = std::fs::read_to_string(at("out/failures.jsonl")).unwrap();
    assert!(
        failures.lines().count() == 1 && failures.contains("bad.nii.gz"),
        "{failures}"
    );
    // The next run only predicts the failed case.
    std::fs::copy(at("images/case_00.nii.gz"), at("images/bad.nii.gz")).unwrap();
    let before = sidecars(&at("out"));
    let processes = (0..2).map(|_| claiming(folder.path(), "images")).collect();
    assert_eq!(written(processes, 0), ["out/bad.nii.gz"]);
    assert_kept(&before, &at("out"));
    assert!(!at("out/failures.jsonl").exists());
}

#[test]
fn claims_of_a_killed_process_are_taken_over_once() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    batch(folder.path(), 30);
    let mut killed = claiming(folder.path(), "images");
    let processes: Vec<Child> = (0..3).map(|_| claiming(folder.path(), "images")).collect();
    wait_until(&mut killed, || files(&at("claims"), ".claim-1").len() > 3);
    killed.kill().unwrap();
    killed.wait().unwrap();
    let before = sidecars(&at("out"));
    let others = written(processes, 0);
    assert_kept(&before, &at("out"));
    assert_eq!(files(&at("out"), ".nii.gz").len(), 30);
    let once: BTreeSet<&String> = others.iter().collect();
    assert_eq!(once.len(), others.len(), "{others:?}");
    // A process holds one case being read, one being segmented and two being written.
    assert!(files(&at("claims"), ".claim-2").len() <= 4);
    assert!(files(&at("claims"), ".claim-3").is_empty());
    assert_eq!(json(&at("out/predictions.json"))["counts"]["pending"], 0);
    run(folder.path(), &["predict", "images", "-o", "alone"], 0);
    assert_same_results(&at("alone"), &at("out"));
}

#[test]
fn shards_split_the_cases() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    batch(folder.path(), 12);
    let mut all = Vec::new();
    for number in 1..=3 {
        let shard = format!("{number}/3");
        let arguments = [
            "predict", "images", "-o", "out", "--shard", &shard, "--json",
        ];
        let summary = run_json(folder.path(), &arguments, 0);
        assert!(summary["kept"].as_array().unwrap().is_empty(), "{summary}");
        let names = summary["written"].as_array().unwrap();
        let manifest = json(&at("out").join(format!("predictions-{number}-of-3.json")));
        assert_eq!(manifest["cases"].as_array().unwrap().len(), names.len());
        all.extend(names.iter().map(|name| name.as_str().unwrap().to_owned()));
    }
    all.sort();
    let expected: Vec<String> = (0..12)
        .map(|index| format!("out/case_{index:02}.nii.gz"))
        .collect();
    assert_eq!(all, expected);
    let log = stderr(&run(
        folder.path(),
        &["predict", "images", "--shard", "0/3"],
        2,
    ));
    assert!(log.contains("1/8"), "{log}");
}
