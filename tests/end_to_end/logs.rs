//! `--log-format json`: everything on stderr is an object a line, whatever happens.

use crate::common::batches::batch;
use crate::common::{SMALL, ctseg, phantoms, run, stderr};
use serde_json::Value;

/// Lines as objects; each has what every line has.
fn lines(stderr: &str, command: &str) -> Vec<Value> {
    let lines = stderr.lines().map(|line| {
        let value: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let time = value["time"].as_str().unwrap();
        assert!(
            time.parse::<jiff::Timestamp>().is_ok() && time.ends_with('Z'),
            "{line}"
        );
        assert!(value["message"].is_string(), "{line}");
        let level = value["level"].as_str().unwrap();
        assert!(["info", "warning", "error"].contains(&level), "{line}");
        assert_eq!(value["command"], command, "{line}");
        assert!(value["pid"].is_u64(), "{line}");
        value
    });
    lines.collect()
}

#[test]
fn a_batch_with_a_bad_volume_is_told_in_objects() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    batch(folder, 3);
    std::fs::write(folder.join("images/bad.nii.gz"), "no volume").unwrap();
    let arguments = ["predict", "images", "-o", "out", "--device", "flex"];
    let output = ctseg(folder, &arguments)
        .env("CTSEG_LOG_FORMAT", "json")
        .env("SLURM_ARRAY_JOB_ID", "70")
        .env("SLURM_ARRAY_TASK_ID", "3")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    let told = lines(&stderr(&output), "predict");
    assert!(told.iter().all(|line| line["job"] == "70_3"), "{told:?}");
    let warned = told.iter().find(|line| line["level"] == "warning").unwrap();
    assert!(warned["message"].as_str().unwrap().contains("bad.nii.gz"));
    let progress = told
        .iter()
        .find(|line| line["task"] == "segmenting")
        .unwrap();
    let known = [&progress["done"], &progress["total"]];
    assert_eq!(known, [4, 4], "{progress}");
    assert_eq!(
        (&progress["unit"], &progress["ended"]),
        (&"cases".into(), &true.into())
    );
    assert!(progress["per_second"].as_f64().unwrap() > 0.0);
    // Results stay what they were, on stdout.
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("3 of 4 volumes segmented"));
}

#[test]
fn a_training_is_told_in_objects() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let data = phantoms(&folder.join("data"), 4, 0);
    let data = data.to_str().unwrap();
    let mut fit = vec!["fit", "--stage", "1", "--data", data, "--fold", "0"];
    fit.extend(["--device", "flex", "--epochs", "1", "--no-out-of-fold"]);
    fit.extend(["--no-mlflow", "--log-format", "json"]);
    fit.extend(SMALL);
    let told = lines(&stderr(&run(folder, &fit, 0)), "fit");
    let epoch = told
        .iter()
        .find(|line| line["task"] == "fold 0 epoch 1")
        .unwrap();
    assert!(
        epoch["note"].as_str().unwrap().starts_with("loss "),
        "{epoch}"
    );
    assert!(
        epoch["done"].as_u64().unwrap() > 0 && epoch.get("job").is_none(),
        "{epoch}"
    );
    let said = |text: &str| {
        told.iter()
            .any(|line| line["message"].as_str().unwrap().contains(text))
    };
    assert!(said("validation Dice"), "{told:?}");
}

#[test]
fn errors_are_objects_too() {
    let folder = tempfile::tempdir().unwrap();
    let told = |arguments: &[&str], code: i32, command: &str| {
        let output = run(folder.path(), arguments, code);
        let mut told = lines(&stderr(&output), command);
        assert_eq!(told.len(), 1, "{told:?}");
        let error = told.remove(0);
        assert_eq!(
            (&error["level"], &error["exit_code"]),
            (&"error".into(), &code.into())
        );
        error["message"].as_str().unwrap().to_owned()
    };
    let missing = ["inspect", "nowhere.nii.gz", "--log-format=json"];
    assert!(told(&missing, 1, "inspect").contains("nowhere.nii.gz"));
    // Command lines that cannot be read.
    let wrong = told(&["--log-format", "json", "predict", "--colour"], 2, "");
    assert!(wrong.contains("unexpected argument '--colour'"), "{wrong}");
    let wrong = told(&["fit", "--log-format=json"], 2, "");
    assert!(wrong.contains("--stage"), "{wrong}");
    let output = run(folder.path(), &["fit", "--log-format", "xml"], 2);
    assert!(
        stderr(&output).contains("text or json"),
        "{}",
        stderr(&output)
    );
    // Help is for people, whoever asks.
    let help = run(folder.path(), &["--help", "--log-format", "json"], 0);
    assert!(String::from_utf8_lossy(&help.stdout).contains("Usage: ctseg"));
    // Without the flag errors stay as they were.
    let output = run(folder.path(), &["inspect", "nowhere.nii.gz"], 1);
    assert!(
        stderr(&output).starts_with("error: nowhere.nii.gz"),
        "{}",
        stderr(&output)
    );
}
