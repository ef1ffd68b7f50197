//! `ctseg status` of trainings, sweeps, batches and evaluations: running, done, killed or failed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant, SystemTime};

use crate::common::batches::{batch, files, json};
use crate::common::runs::{only_run, signal};
use crate::common::{SMALL, ctseg, phantoms, run, run_json, stderr};
use serde_json::{Value, json};

mod batches;

/// The JSON output of `ctseg status` for `place`.
fn status(folder: &Path, place: &str) -> Value {
    run_json(folder, &["status", place, "--json"], 0)
}

fn only_status(folder: &Path, place: &str) -> Value {
    let all = status(folder, place);
    assert_eq!(all["runs"].as_array().unwrap().len(), 1, "{all:#}");
    all["runs"][0].clone()
}

fn text(folder: &Path, place: &str) -> String {
    let output = run(folder, &["status", place], 0);
    String::from_utf8(output.stdout).unwrap()
}

/// All entries below `folder`, with modification time and size.
fn listing(folder: &Path) -> BTreeMap<PathBuf, (SystemTime, u64)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            found.insert(entry.path(), (metadata.modified().unwrap(), metadata.len()));
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    found
}

/// Stops a process with SIGSTOP and waits until it has stopped.
fn stop(child: &Child) {
    signal(child, "-STOP");
    let started = Instant::now();
    let stat = format!("/proc/{}/stat", child.id());
    // proc_pid_stat(5): the state follows the name, which is in brackets.
    while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "the process does not stop"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn spawned(folder: &Path, arguments: &[&str]) -> Child {
    ctseg(folder, arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Waits for a condition that must hold before the process ends.
fn wait_for(child: &mut Child, what: impl Fn() -> bool) {
    let started = Instant::now();
    while !what() {
        assert!(started.elapsed() < Duration::from_secs(240), "timed out");
        assert!(
            child.try_wait().unwrap().is_none(),
            "the process ended early"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The number of epochs that the only run has recorded.
fn epochs(folder: &Path) -> usize {
    let Ok(mut runs) = folder.join("runs").read_dir() else {
        return 0;
    };
    let Some(Ok(run)) = runs.next() else { return 0 };
    let text = std::fs::read_to_string(run.path().join("metrics.jsonl"));
    text.map_or(0, |text| text.lines().count())
}

/// Edits a JSON file.
fn edit_json(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = json(path);
    change(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

#[test]
fn a_folder_whose_name_is_not_utf8_is_shown() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let name = std::ffi::OsStr::from_bytes(b"out\xff");
    let out = folder.path().join(name);
    std::fs::create_dir(&out).unwrap();
    let batch = r#"{"ended": true, "interrupted": false, "seconds": 1.0, "cases": []}"#;
    std::fs::write(out.join("predictions.json"), batch).unwrap();
    let mut command = ctseg(folder.path(), &["status", "--json"]);
    let output = command.arg(name).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["runs"][0]["path"], "out\u{fffd}");
}

#[test]
fn a_training_is_shown_running_killed_and_done() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let data = phantoms(&folder.join("data"), 4, 0);
    let data = data.to_str().unwrap();
    let mut fit = vec!["fit", "--stage", "1", "--data", data, "--fold", "0"];
    fit.extend(["--device", "flex", "--epochs", "6", "--no-out-of-fold"]);
    fit.extend(["--no-mlflow", "--max-time", "2h"]);
    fit.extend(SMALL);
    let mut child = spawned(folder, &fit);
    wait_for(&mut child, || epochs(folder) >= 2);
    stop(&child);
    let before = listing(folder);
    let running = only_status(folder, "runs");
    let printed = text(folder, "runs");
    assert_eq!(listing(folder), before, "status has written something");
    assert_eq!(running["kind"], "fit");
    assert_eq!(running["state"], "running", "{running:#}");
    assert_eq!(running["worker"]["pid"], child.id());
    assert_eq!(running["resume"], Value::Null);
    let done = running["epochs"]["done"].as_u64().unwrap();
    assert!((2..=6).contains(&done), "{running:#}");
    assert_eq!(running["epochs"]["of"], 6);
    assert!(running["dice"].is_f64() && running["epochs"]["loss"].is_f64());
    let start: jiff::Timestamp = running["begun"].as_str().unwrap().parse().unwrap();
    let end: jiff::Timestamp = running["expected_end"].as_str().unwrap().parse().unwrap();
    let hours = end.duration_since(start).as_secs_f64() / 3600.0;
    assert!((0.0..=2.0).contains(&hours), "{running:#}");
    assert!(running["seconds_since_last_sign"].as_u64().unwrap() < 60);
    let first = printed.lines().nth(1).unwrap();
    assert!(
        first.contains("running") && first.contains("fold 0 epoch"),
        "{printed}"
    );
    assert!(
        printed.contains(&format!("process {}", child.id())),
        "{printed}"
    );

    signal(&child, "-KILL");
    child.wait().unwrap();
    let killed = only_status(folder, "runs");
    assert_eq!(killed["state"], "interrupted", "{killed:#}");
    assert!(killed["because"].as_str().unwrap().contains("exited"));
    assert_eq!(killed["expected_end"], Value::Null);
    // The suggested command works.
    let resume = killed["resume"].as_str().unwrap();
    let resume: Vec<&str> = resume.split(' ').skip(1).collect();
    let resumed = [&resume[..], &["--device", "flex", "--no-mlflow"]].concat();
    run(folder, &resumed, 0);
    let done = only_status(folder, "runs");
    assert_eq!(done["state"], "done", "{done:#}");
    assert_eq!(done["epochs"]["networks_done"], 1);
    assert_eq!(done["resume"], Value::Null);
    let state = json(&only_run(folder).join("state.json"));
    assert_eq!(state["ended"]["outcome"], "finished");
    check_foreign_states(folder);
}

/// Sets the modification time of all files below `folder`.
fn set_times(folder: &Path, time: SystemTime) {
    let files = listing(folder).into_keys().filter(|path| path.is_file());
    for path in files {
        let file = std::fs::File::options().append(true).open(path).unwrap();
        file.set_modified(time).unwrap();
    }
}

/// Checks states that a test cannot produce itself: a run on another machine, of an early version, a damaged one.
fn check_foreign_states(folder: &Path) {
    let run_folder = only_run(folder);
    let state = run_folder.join("state.json");
    edit_json(&state, |state| {
        state["ended"] = Value::Null;
        state["host"] = "gpu07".into();
        state["job"] = "70_3".into();
        state["process"] = "01234567-4711-99".into();
    });
    assert_eq!(only_status(folder, "runs")["state"], "running");
    let span = Duration::from_secs(2 * 3600 + 90);
    set_times(&run_folder, SystemTime::now() + span);
    let ahead = only_status(folder, "runs");
    assert_eq!(ahead["state"], "interrupted");
    let because = ahead["because"].as_str().unwrap();
    assert!(
        because.contains("gpu07") && because.contains(" in the future"),
        "{because}"
    );
    set_times(&run_folder, SystemTime::now() - span);
    let silent = only_status(folder, "runs");
    assert_eq!(silent["state"], "interrupted");
    let because = silent["because"].as_str().unwrap();
    assert!(
        because.contains("gpu07") && because.contains("job 70_3") && because.contains("2 h 1 min"),
        "{because}"
    );
    edit_json(&state, |state| {
        state["ended"] =
            json!({"at": "2026-01-01T00:00:00Z", "outcome": "failed", "reason": "no memory"});
    });
    let failed = only_status(folder, "runs");
    assert_eq!(
        (&failed["state"], &failed["because"]),
        (&"failed".into(), &"no memory".into())
    );
    assert!(failed["resume"].is_string());
    std::fs::write(&state, "{").unwrap();
    let damaged = only_status(folder, "runs");
    assert_eq!(damaged["state"], "unknown");
    assert!(damaged["because"].as_str().unwrap().contains("state.json"));
    std::fs::remove_file(&state).unwrap();
    assert_eq!(only_status(folder, "runs")["state"], "done");
    // An unfinished run of an early version.
    let metrics = run_folder.join("metrics.jsonl");
    let lines = std::fs::read_to_string(&metrics).unwrap();
    let first = lines.lines().next().unwrap();
    std::fs::write(&metrics, format!("{first}\n")).unwrap();
    let early = only_status(folder, "runs");
    assert_eq!(
        (&early["state"], &early["epochs"]["done"]),
        (&"unknown".into(), &1.into())
    );
}

#[test]
fn a_sweep_shows_its_trials() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let data = phantoms(&folder.join("data"), 4, 0);
    let data = data.to_str().unwrap();
    let mut sweep = vec!["sweep", "--stage", "1", "--data", data, "--device", "flex"];
    sweep.extend(["--epochs", "1", "--rungs", "1", "--no-mlflow"]);
    // One learning rate is far too high: its trial fails.
    sweep.extend(["--vary", "training.optimiser.learning_rate=1e-3,1e30"]);
    sweep.extend(SMALL);
    run(folder, &sweep, 3);
    let done = only_status(folder, "runs");
    assert_eq!(
        (&done["kind"], &done["state"]),
        (&"sweep".into(), &"failed".into())
    );
    let trials = &done["trials"];
    assert_eq!(
        (&trials["all"], &trials["failed"]),
        (&2.into(), &1.into()),
        "{done:#}"
    );
    assert!(trials["best"].as_str().unwrap().contains("1e-3"));
    let printed = text(folder, "runs");
    assert!(
        printed.contains("2 of 2 trials started, 1 failed"),
        "{printed}"
    );
    let state = only_run(folder).join("state.json");
    edit_json(&state, |state| {
        state["ended"] = json!({"at": "2026-01-01T00:00:00Z", "outcome": "interrupted"});
    });
    let resume = only_status(folder, "runs")["resume"].clone();
    assert!(
        resume
            .as_str()
            .unwrap()
            .starts_with("ctseg sweep --resume runs/"),
        "{resume}"
    );
}

#[test]
fn watching_ends_when_nothing_runs() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    batch(folder, 40);
    let mut child = spawned(
        folder,
        &["predict", "images", "-o", "out", "--device", "flex"],
    );
    wait_for(&mut child, || folder.join("out/predictions.json").exists());
    stop(&child);
    let mut watching = ctseg(folder, &["status", "out", "--watch", "100ms", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(watching.stdout.take().unwrap());
    let mut text = String::new();
    output.read_line(&mut text).unwrap();
    signal(&child, "-CONT");
    output.read_to_string(&mut text).unwrap();
    assert_eq!(watching.wait().unwrap().code(), Some(0));
    let states: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["runs"][0]["state"].clone())
        .collect();
    assert!(states.len() > 1, "{text}");
    assert_eq!(
        (&states[0], states.last().unwrap()),
        (&"running".into(), &"done".into())
    );
    child.wait().unwrap();
    let nothing = run(folder, &["status", "images"], 1);
    assert!(
        stderr(&nothing).contains("images: contains no run"),
        "{}",
        stderr(&nothing)
    );
    let nowhere = run(folder, &["status", "nowhere"], 1);
    assert!(
        stderr(&nowhere).contains("nowhere: is not a folder"),
        "{}",
        stderr(&nowhere)
    );
}
