//! `--metrics-file`: metrics for Prometheus, complete at every moment.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::batches::{batch, temp_files};
use crate::common::runs::signal;
use crate::common::{SMALL, ctseg, phantoms, run, stderr};
use serde_json::Value;

/// The value of the sample with this name and all of these labels.
fn value(text: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    let found = lines.find(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with('{'))
            && labels.iter().all(|label| line.contains(label))
    })?;
    found.rsplit_once(' ')?.1.parse().ok()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// Compares our reading of a file with that of Prometheus' own client.
fn check_with_prometheus(path: &Path) {
    let Some(python) = std::env::var_os("CTSEG_TEST_PYTHON") else {
        println!("check skipped: CTSEG_TEST_PYTHON is not set to a Python with prometheus-client");
        return;
    };
    let output = Command::new(python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/check_prometheus.py"))
        .arg(path)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = read(path);
    let samples = found[0]["samples"].as_array().unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(samples.len(), lines, "{text}");
    for sample in samples {
        let labels = sample[1].as_object().unwrap();
        assert!(labels["pid"].as_str().unwrap().parse::<u32>().is_ok());
        let labels: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("{name}={value}")) // quotes and escapes are JSON's too
            .collect();
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let ours = value(&text, sample[0].as_str().unwrap(), &labels);
        assert_eq!(ours, sample[2].as_f64(), "{sample}");
    }
    let types = found[0]["types"].as_object().unwrap();
    assert!(
        types
            .values()
            .all(|kind| kind == "gauge" || kind == "counter"),
        "{types:?}"
    );
}

#[test]
fn a_batch_writes_its_metrics() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    batch(folder, 3);
    std::fs::write(folder.join("images/bad.nii.gz"), "no volume").unwrap();
    let mut predict = vec!["predict", "images", "-o", "out", "--device", "flex"];
    predict.extend(["--metrics-file", "figures/ctseg.prom"]);
    let log = stderr(&run(folder, &predict, 3));
    let path = folder.join("figures/ctseg.prom");
    let text = read(&path);
    let cases = |state: &str| value(&text, "ctseg_cases_total", &[&format!("state=\"{state}\"")]);
    assert_eq!(
        [cases("done"), cases("failed"), cases("skipped")],
        [Some(3.0), Some(1.0), Some(0.0)]
    );
    let own = ["command=\"predict\""];
    assert_eq!(value(&text, "ctseg_exit_code", &own), Some(3.0), "{text}");
    assert_eq!(value(&text, "ctseg_up", &own), Some(0.0));
    let warnings = log.lines().filter(|line| line.starts_with("warning: "));
    let counted = value(&text, "ctseg_warnings_total", &own);
    assert_eq!(counted, Some(warnings.count() as f64), "{log}");
    let segmenting = ["task=\"segmenting\"", "unit=\"cases\""];
    assert_eq!(value(&text, "ctseg_task_done", &segmenting), Some(4.0));
    assert_eq!(value(&text, "ctseg_task_size", &segmenting), Some(4.0));
    assert!(value(&text, "ctseg_resident_memory_bytes", &own).unwrap() > 1e6);
    assert!(
        value(&text, "ctseg_info", &["engine=\"flex", "version=\""]).is_some(),
        "{text}"
    );
    check_with_prometheus(&path);
    assert_eq!(temp_files(&folder.join("figures")), 0);

    std::fs::remove_file(folder.join("images/bad.nii.gz")).unwrap();
    run(folder, &predict, 0);
    let text = read(&path);
    assert_eq!(
        value(&text, "ctseg_cases_total", &["state=\"skipped\""]),
        Some(3.0)
    );
    assert_eq!(value(&text, "ctseg_exit_code", &own), Some(0.0));
    // Monitoring commands do not overwrite the metrics.
    let status = ctseg(folder, &["status", "out"])
        .env("CTSEG_METRICS_FILE", &path)
        .output();
    assert!(status.unwrap().status.success());
    assert_eq!(read(&path), text);
}

#[test]
fn a_running_training_has_metrics() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let data = phantoms(&folder.join("data"), 4, 0);
    let data = data.to_str().unwrap();
    let path = folder.join("odd \"name\".prom");
    let mut fit = vec!["fit", "--stage", "1", "--data", data, "--fold", "0"];
    fit.extend(["--device", "flex", "--epochs", "100000", "--no-mlflow"]);
    fit.extend(["--set", "training.early_stopping.patience=100000"]);
    fit.extend(SMALL);
    let mut child = ctseg(folder, &fit)
        .env("CTSEG_METRICS_FILE", &path)
        .env("SLURM_JOB_ID", "71")
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let own = ["network=\"fold 0\"", "command=\"fit\"", "job_id=\"71\""];
    // The file is complete at every moment: it has its first metric and ends with a newline.
    let text = loop {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(text.is_empty() || text.starts_with("# HELP ctseg_up") && text.ends_with('\n'));
        if value(&text, "ctseg_epoch", &own).is_some_and(|epoch| epoch >= 1.0) {
            break text;
        }
        assert!(started.elapsed() < Duration::from_secs(240), "timed out");
        assert!(child.try_wait().unwrap().is_none(), "the process ended");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(value(&text, "ctseg_up", &own[1..]), Some(1.0));
    assert_eq!(value(&text, "ctseg_exit_code", &[]), None);
    for name in ["ctseg_loss", "ctseg_step_loss", "ctseg_learning_rate"] {
        assert!(value(&text, name, &own).unwrap() > 0.0, "{name}: {text}");
    }
    let dice = value(&text, "ctseg_validation_dice", &own).unwrap();
    let best = value(&text, "ctseg_validation_dice_best", &own).unwrap();
    assert!((0.0..=1.0).contains(&dice) && dice <= best, "{text}");
    let progress = value(&text, "ctseg_last_progress_timestamp_seconds", &[]).unwrap();
    let now = jiff::Timestamp::now().as_second() as f64;
    assert!((now - progress).abs() < 60.0, "{progress}");
    signal(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(75));
    assert_eq!(
        value(&read(&path), "ctseg_exit_code", &own[1..]),
        Some(75.0)
    );
    assert_eq!(value(&read(&path), "ctseg_up", &own[1..]), Some(0.0));
    check_with_prometheus(&path);
}

#[test]
fn an_unwritable_metrics_file_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("there")).unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    for (path, problem) in [("there", "is a folder"), ("file/x.prom", "file: is a file")] {
        let output = run(
            folder.path(),
            &["plan", "nowhere", "--metrics-file", path],
            1,
        );
        assert!(stderr(&output).contains(problem), "{}", stderr(&output));
    }
}
