//! Predictions and evaluations as tracked runs: only on request, and linked to the model.

use std::path::Path;

use crate::common::{phantoms, random_model, run};
use ctseg_core::model::bundle::Bundle;
use serde_json::Value;

/// The events of the only run whose name ends with `ending`.
fn events(runs: &Path, ending: &str) -> Vec<Value> {
    let entries = std::fs::read_dir(runs).unwrap();
    let mut found = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().ends_with(ending));
    let run = found.next().unwrap();
    assert!(found.next().is_none());
    let text = std::fs::read_to_string(run.join("tracking/events.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

fn values<'a>(events: &'a [Value], kind: &str) -> Vec<(&'a str, &'a Value)> {
    let of_kind = events.iter().filter(|event| event["event"] == kind);
    let values = of_kind.filter_map(|event| event["values"].as_object());
    values
        .flatten()
        .map(|(name, value)| (name.as_str(), value))
        .collect()
}

fn value<'a>(events: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let values = values(events, kind);
    let found = values.iter().find(|(own, _)| *own == name);
    found.unwrap_or_else(|| panic!("{name}: {values:?}")).1
}

/// File names of the artifacts, which are copies in the run folder.
fn artifacts(events: &[Value]) -> Vec<&str> {
    let artifacts = events.iter().filter(|event| event["event"] == "artifact");
    let paths = artifacts.map(|event| event["path"].as_str().unwrap());
    paths
        .map(|path| path.strip_prefix("artifacts/").unwrap())
        .collect()
}

#[test]
fn predictions_and_evaluations_are_runs_linked_to_their_model() {
    let folder = tempfile::tempdir().unwrap();
    let data = phantoms(&folder.path().join("data"), 0, 2);
    random_model(&folder.path().join("model"), &[]);
    let images = "data/images/*.nii.gz";
    let data = data.to_str().unwrap();
    run(folder.path(), &["predict", images, "-o", "plain"], 0);
    run(folder.path(), &["evaluate", "plain", data], 0);
    assert!(!folder.path().join("runs").exists(), "no run was requested");

    run(
        folder.path(),
        &["predict", images, "-o", "out", "--mlflow"],
        0,
    );
    let output = run(
        folder.path(),
        &["--json", "evaluate", "out", data, "--mlflow"],
        0,
    );
    let runs = folder.path().join("runs");
    let model = Bundle::open(&folder.path().join("model")).unwrap().sha256();

    let predicted = events(&runs, "-predict");
    assert_eq!(predicted[0]["event"], "begun");
    assert_eq!(predicted.last().unwrap()["status"], "FINISHED");
    assert_eq!(value(&predicted, "tags", "ctseg.kind"), "predict");
    assert_eq!(value(&predicted, "tags", "ctseg.model_sha256"), &model);
    assert_eq!(value(&predicted, "metrics", "cases/written"), 2.0);
    assert_eq!(value(&predicted, "metrics", "cases/failed"), 0.0);
    assert_eq!(value(&predicted, "parameters", "tta"), "false");
    assert_eq!(
        artifacts(&predicted),
        ["predictions.json", "statistics.csv"]
    );

    let evaluated = events(&runs, "-evaluate");
    assert_eq!(evaluated.last().unwrap()["status"], "FINISHED");
    assert_eq!(value(&evaluated, "tags", "ctseg.model_sha256"), &model);
    let command = value(&evaluated, "tags", "mlflow.source.name");
    assert!(
        command.as_str().unwrap().contains("evaluate out"),
        "{command}"
    );
    assert_eq!(value(&evaluated, "metrics", "cases"), 2.0);
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    let dice = value(&evaluated, "metrics", "dice");
    assert!(dice.is_f64() && *dice == summary["mean"]["dice"], "{dice}");
    let liver = value(&evaluated, "metrics", "dice_per_structure/liver");
    assert_eq!(liver, &summary["per_structure"]["liver"]["dice"]);
    assert_eq!(artifacts(&evaluated), ["summary.json", "metrics.csv"]);
}

#[test]
fn a_failed_command_is_a_failed_run() {
    let folder = tempfile::tempdir().unwrap();
    phantoms(&folder.path().join("data"), 1, 0);
    let images = "data/images/*.nii.gz";
    run(
        folder.path(),
        &[
            "predict", images, "--model", "none", "--mlflow", "--runs", "failed",
        ],
        1,
    );
    let failed = events(&folder.path().join("failed"), "-predict");
    let end = failed.last().unwrap();
    assert_eq!(end["status"], "FAILED");
    assert!(
        end["reason"].as_str().unwrap().contains("is not a model"),
        "{end}"
    );
    run(
        folder.path(),
        &["predict", images, "--mlflow", "--no-mlflow"],
        2,
    );
}
