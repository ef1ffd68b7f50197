//! Sweeps through the binary: the sane setting wins, failing trials do not affect others, and a resumed sweep decides
//! the same.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::runs::only_run;
use crate::common::{SMALL, ctseg, phantoms, run, stderr};
use serde_json::Value;

/// Learning rates: too low to learn, sane, diverging to infinity, and far too high.
const RATES: &str = "training.optimiser.learning_rate=1e-9,1e-2,1e30,30";

fn arguments<'a>(data: &'a Path, vary: &[&'a str]) -> Vec<&'a str> {
    let data = data.to_str().unwrap();
    let mut arguments = vec!["--json", "--device", "flex", "--threads", "1"];
    arguments.extend([
        "sweep", "--stage", "1", "--data", data, "--epochs", "18", "--rungs", "2",
    ]);
    arguments.extend(SMALL);
    arguments.extend(["--set", "training.batch_size=2"]);
    for text in vary {
        arguments.extend(["--vary", text]);
    }
    arguments
}

/// The table without columns that depend on time or paths.
fn table(sweep: &Path) -> Vec<Value> {
    let bytes = std::fs::read(sweep.join("sweep.json")).unwrap();
    let mut rows: Vec<Value> = serde_json::from_slice(&bytes).unwrap();
    for row in &mut rows {
        let row = row.as_object_mut().unwrap();
        row.remove("seconds");
        row.remove("run");
    }
    rows
}

#[test]
fn the_sane_rate_wins_and_a_killed_and_resumed_sweep_ends_with_the_same_table() {
    let data = tempfile::tempdir().unwrap();
    let descriptor = phantoms(data.path(), 4, 0);
    let arguments = arguments(&descriptor, &[RATES]);
    let whole = tempfile::tempdir().unwrap();
    let output = run(whole.path(), &arguments, 3);
    assert!(stderr(&output).contains("failed"), "{}", stderr(&output));
    let sweep = only_run(whole.path());
    let rows = table(&sweep);
    assert_sane_rate_won(&sweep, &rows);
    assert!(
        !whole.path().join("model").exists(),
        "a sweep does not write the model"
    );

    let folder = tempfile::tempdir().unwrap();
    killed_in_third_trial(folder.path(), &arguments);
    let killed = only_run(folder.path());
    let resume = ["--device", "flex", "--threads", "1", "sweep", "--resume"];
    let resume = [&resume[..], &[killed.to_str().unwrap()]].concat();
    let output = run(folder.path(), &resume, 3);
    assert_eq!(table(&killed), rows);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("learning_rate=1e-2") && text.contains("fit --resume"),
        "{text}"
    );
    // The winner can be finished with `fit`, which writes the model.
    let winner = killed.join("trials/001");
    let fit = [
        "--device",
        "flex",
        "--threads",
        "1",
        "fit",
        "--resume",
        winner.to_str().unwrap(),
    ];
    run(folder.path(), &fit, 0);
    assert!(folder.path().join("model/model.toml").exists());
}

fn assert_sane_rate_won(sweep: &Path, rows: &[Value]) {
    assert_eq!(rows.len(), 4);
    assert_eq!(
        rows[0]["settings"][0],
        "training.optimiser.learning_rate=1e-2"
    );
    // One in three is promoted after six epochs.
    let epochs: Vec<u64> = rows
        .iter()
        .map(|row| row["epochs"].as_u64().unwrap())
        .collect();
    assert_eq!((epochs[0], epochs[1]), (18, 6), "{rows:#?}");
    let diverged = rows.last().unwrap();
    assert!(
        diverged["failure"]
            .as_str()
            .is_some_and(|text| !text.contains('\n')),
        "{diverged}"
    );
    for file in [
        "sweep.csv",
        "table.txt",
        "plots/dice.png",
        "plots/loss.png",
        "trials/001/plots/dice.png",
    ] {
        assert!(sweep.join(file).exists(), "{file}");
    }
    let settings = std::fs::read_to_string(sweep.join("trials/001/run.toml")).unwrap();
    let name = sweep.file_name().unwrap().to_str().unwrap();
    assert!(
        settings.contains(&format!("parent = \"{name}\"")),
        "{settings}"
    );
}

/// Runs a sweep in `folder` and kills it during its third trial.
fn killed_in_third_trial(folder: &Path, arguments: &[&str]) {
    let mut child = ctseg(folder, arguments)
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    let third = || {
        let runs = std::fs::read_dir(folder.join("runs")).ok()?;
        let sweep = runs.flatten().next()?.path();
        Some(sweep.join("trials/002/run.toml").exists())
    };
    while third() != Some(true) {
        assert!(start.elapsed() < Duration::from_secs(300), "no third trial");
        std::thread::sleep(Duration::from_millis(3));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn invalid_sweeps_are_refused_before_a_folder_is_created() {
    let data = tempfile::tempdir().unwrap();
    let descriptor = phantoms(data.path(), 4, 0);
    let folder = tempfile::tempdir().unwrap();
    for (vary, code, expected) in [
        ("training.loss=bce,nonsense", 1, "nonsense"),
        ("training.loss", 2, "--vary"),
        ("folds=2,3", 2, "folds"),
    ] {
        let output = run(folder.path(), &arguments(&descriptor, &[vary]), code);
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
        assert!(!folder.path().join("runs").exists());
    }
}
