//! `--log-format json`: every line on stderr is a JSON object.

use crate::common::batches::batch;
use crate::common::{SMALL, ctseg, phantoms, run, stderr};
use serde_json::Value;

/// The lines as objects; fails unless each has the common fields.
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
fn a_batch_with_a_bad_volume_logs_json() {
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
    let log = lines(&stderr(&output), "predict");
    assert!(log.iter().all(|line| line["job"] == "70_3"), "{log:?}");
    let warned = log.iter().find(|line| line["level"] == "warning").unwrap();
    assert!(warned["message"].as_str().unwrap().contains("bad.nii.gz"));
    let progress = log
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
    // Results are still text on stdout.
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("3 of 4 volumes segmented"));
}

#[test]
fn a_training_logs_json() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let data = phantoms(&folder.join("data"), 4, 0);
    let data = data.to_str().unwrap();
    let mut fit = vec!["fit", "--stage", "1", "--data", data, "--fold", "0"];
    fit.extend(["--device", "flex", "--epochs", "1", "--no-out-of-fold"]);
    fit.extend(["--no-mlflow", "--log-format", "json"]);
    fit.extend(SMALL);
    let log = lines(&stderr(&run(folder, &fit, 0)), "fit");
    let epoch = log
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
    let has_message = |text: &str| {
        log.iter()
            .any(|line| line["message"].as_str().unwrap().contains(text))
    };
    assert!(has_message("validation Dice"), "{log:?}");
}

#[test]
fn errors_are_json_too() {
    let folder = tempfile::tempdir().unwrap();
    let error = |arguments: &[&str], code: i32, command: &str| {
        let output = run(folder.path(), arguments, code);
        let mut log = lines(&stderr(&output), command);
        assert_eq!(log.len(), 1, "{log:?}");
        let error = log.remove(0);
        assert_eq!(
            (&error["level"], &error["exit_code"]),
            (&"error".into(), &code.into())
        );
        error["message"].as_str().unwrap().to_owned()
    };
    let missing = ["inspect", "nowhere.nii.gz", "--log-format=json"];
    assert!(error(&missing, 1, "inspect").contains("nowhere.nii.gz"));
    // Invalid command lines.
    let wrong = error(&["--log-format", "json", "predict", "--colour"], 2, "");
    assert!(wrong.contains("unexpected argument '--colour'"), "{wrong}");
    let wrong = error(&["fit", "--log-format=json"], 2, "");
    assert!(wrong.contains("--stage"), "{wrong}");
    let output = run(folder.path(), &["fit", "--log-format", "xml"], 2);
    assert!(
        stderr(&output).contains("text or json"),
        "{}",
        stderr(&output)
    );
    // Help stays text.
    let help = run(folder.path(), &["--help", "--log-format", "json"], 0);
    assert!(String::from_utf8_lossy(&help.stdout).contains("Usage: ctseg"));
    // Without the flag errors are text.
    let output = run(folder.path(), &["inspect", "nowhere.nii.gz"], 1);
    assert!(
        stderr(&output).starts_with("error: nowhere.nii.gz"),
        "{}",
        stderr(&output)
    );
}
