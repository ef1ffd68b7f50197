//! Requests to stop: by SIGUSR1, by a job's time limit, and in every phase of a training.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::common::batches::{batch, files, json, temp_files, wait_until};
use crate::common::runs::{
    find_only, fit_job, fit_one_fold, only_run, resume_one_fold, signal, stage1_bytes,
};
use crate::common::{ctseg, phantoms, run, stderr};
use ctseg_base::Error;
use ctseg_base::progress::{Observer, Silent, Task};
use ctseg_core::dataset::{Dataset, LabelSource};
use ctseg_core::run::checkpoint::{Checkpoint, CheckpointFolder};
use ctseg_train::fit::{FitSummary, fit};

/// A training of one fold that takes some seconds.
fn fit_arguments(data: &Path) -> Vec<&str> {
    let set = [
        "training.epochs=60",
        "training.early_stopping.patience=100",
        "training.plateau.patience=100",
        "training.keep=last",
        "training.checkpoint_minutes=1000",
    ];
    fit_one_fold(data, "flex", &set)
}

fn resumed(folder: &Path) -> Vec<u8> {
    let run_folder = only_run(folder);
    run(folder, &resume_one_fold(&run_folder, "flex"), 0);
    stage1_bytes(folder)
}

#[test]
fn sigusr1_and_the_job_time_limit_stop_a_training_that_resumes_to_the_same_bytes() {
    let data = tempfile::tempdir().unwrap();
    let descriptor = phantoms(data.path(), 4, 0);
    let arguments = fit_arguments(&descriptor);
    let whole = tempfile::tempdir().unwrap();
    run(whole.path(), &arguments, 0);

    let folder = tempfile::tempdir().unwrap();
    let mut child = ctseg(folder.path(), &arguments)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let metrics = || {
        find_only(&folder.path().join("runs")).is_some_and(|run| run.join("metrics.jsonl").exists())
    };
    wait_until(&mut child, metrics);
    for _ in 0..3 {
        signal(&child, "-USR1");
    }
    let output = child.wait_with_output().unwrap();
    let log = stderr(&output);
    assert_eq!(output.status.code(), Some(75), "{log}");
    assert!(log.contains("resume with"), "{log}");
    let last = only_run(folder.path()).join("checkpoints/fold_0");
    let stopped = Checkpoint::load(&CheckpointFolder::new(last).last()).unwrap();
    assert!(stopped.progress.ended.is_none(), "it had finished before");
    assert!(resumed(folder.path()) == stage1_bytes(whole.path()));

    // Started two seconds before the margin is reached.
    let limited = tempfile::tempdir().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let output = ctseg(limited.path(), &arguments)
        .args(["--stop-before-limit", "5m"])
        .env("SLURM_JOB_START_TIME", (now.as_secs() - 60).to_string())
        .env("SLURM_JOB_END_TIME", (now.as_secs() + 302).to_string())
        .output()
        .unwrap();
    let log = stderr(&output);
    assert_eq!(output.status.code(), Some(75), "{log}");
    assert!(log.contains("time limit is in 300s; stopping"), "{log}");
    assert!(resumed(limited.path()) == stage1_bytes(whole.path()));
}

#[test]
fn a_margin_beyond_the_job_time_is_wrong_usage_and_an_unknown_limit_gives_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let descriptor = phantoms(&folder.path().join("data"), 4, 0);
    let mut arguments = fit_arguments(&descriptor);
    arguments.extend(["--epochs", "1", "--no-out-of-fold"]);
    let limited = |end: u64| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let mut command = ctseg(folder.path(), &arguments);
        command
            .env("CTSEG_STOP_BEFORE_LIMIT", "5m")
            .env("SLURM_JOB_END_TIME", (now.as_secs() + end).to_string());
        let job_start = now.as_secs() - 100;
        (command, job_start.to_string())
    };
    let (mut command, job_start) = limited(150);
    let output = command
        .env("SLURM_JOB_START_TIME", job_start)
        .output()
        .unwrap();
    let log = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{log}");
    assert!(log.contains("time limit is 250s"), "{log}");
    // Late in a job whose time limit was sufficient: interrupted before training starts.
    let (mut command, _) = limited(150);
    let output = command.output().unwrap();
    let log = stderr(&output);
    assert_eq!(output.status.code(), Some(75), "{log}");
    assert!(log.contains("not starting"), "{log}");
    assert!(find_only(&folder.path().join("runs")).is_none());
    let output = ctseg(folder.path(), &arguments)
        .args(["--stop-before-limit", "5m"])
        .output()
        .unwrap();
    let log = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert!(log.contains("time limit unknown"), "{log}");
}

#[test]
fn sigusr1_stops_a_batch_after_the_current_case() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    batch(folder.path(), 40);
    let mut child = ctseg(folder.path(), &["predict", "images", "-o", "out"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until(&mut child, || files(&out, ".json").len() > 2);
    // As a job script forwards it from the scheduler.
    for name in ["-USR1", "-TERM", "-USR1"] {
        signal(&child, name);
    }
    assert_eq!(child.wait().unwrap().code(), Some(75));
    let manifest = json(&out.join("predictions.json"));
    assert_eq!(manifest["interrupted"], true);
    assert!(manifest["counts"]["pending"].as_u64().unwrap() > 0);
    assert_eq!(temp_files(&out), 0);
}

/// Requests a stop when a phase starts, and counts its progress afterwards.
struct StopsAt {
    phase: &'static str,
    stop: AtomicBool,
    done: Arc<AtomicU64>,
}

struct Counted(Arc<AtomicU64>);

impl Task for Counted {
    fn advance(&self, steps: u64) {
        self.0.fetch_add(steps, Ordering::Relaxed);
    }
    fn note(&self, _: &str) {}
}

impl Observer for StopsAt {
    fn info(&self, _: &str) {}
    fn warn(&self, _: &str) {}
    fn task(&self, name: &str, _: u64, _: &'static str) -> Box<dyn Task> {
        if name != self.phase {
            assert!(
                !self.stop.load(Ordering::Relaxed),
                "{name} started after a stop was requested"
            );
            return Box::new(Silent);
        }
        self.stop.store(true, Ordering::Relaxed);
        Box::new(Counted(Arc::clone(&self.done)))
    }
}

/// Runs a small training with its preparation and predictions, or resumes it.
fn fitted(
    descriptor: &Path,
    folder: &Path,
    stop: &AtomicBool,
    observer: &dyn Observer,
) -> ctseg_base::Result<FitSummary> {
    let set = ["training.epochs=2"];
    fit(&fit_job(descriptor, folder, &set, stop), observer)
}

#[test]
fn every_phase_of_a_training_stops_on_request() {
    let data = tempfile::tempdir().unwrap();
    let descriptor = phantoms(data.path(), 8, 0);
    let fitted = |folder: &Path, stop: &AtomicBool, observer: &dyn Observer| {
        fitted(&descriptor, folder, stop, observer)
    };
    let whole = tempfile::tempdir().unwrap();
    let no_stop = AtomicBool::new(false);
    fitted(whole.path(), &no_stop, &Silent).unwrap();
    let threads = rayon::current_num_threads() as u64;
    for (phase, most) in [
        ("checking the data", threads),
        // No step: its first batch needs cases to be read.
        ("fold 0 epoch 1", 0),
        // One step of four slices: its cases are in memory.
        ("fold 1 epoch 1", 4),
        ("stage 1 on training cases", 0),
        ("out-of-fold predictions", 0),
        ("comparing", 0),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let observer = StopsAt {
            phase,
            stop: AtomicBool::new(false),
            done: Arc::default(),
        };
        let start = Instant::now();
        let ended = fitted(folder.path(), &observer.stop, &observer);
        println!("{phase}: {:?}", start.elapsed());
        let Err(Error::Interrupted(how)) = ended else {
            panic!("{phase}: not interrupted: {ended:?}");
        };
        let done = observer.done.load(Ordering::Relaxed);
        assert!(done <= most, "{phase}: {done} more steps, {how}");
        fitted(folder.path(), &no_stop, &Silent).unwrap();
        assert!(
            stage1_bytes(folder.path()) == stage1_bytes(whole.path()),
            "{phase}: different weights"
        );
    }
}

#[test]
fn a_long_dataset_check_does_not_delay_signals() {
    let folder = tempfile::tempdir().unwrap();
    let descriptor = phantoms(&folder.path().join("data"), 2, 0);
    let dataset = Dataset::open(&descriptor).unwrap();
    // Enough cases to take a minute to read.
    for part in ["many/images", "many/labels"] {
        std::fs::create_dir_all(folder.path().join(part)).unwrap();
    }
    let LabelSource::Map(labels) = &dataset.cases[0].labels else {
        panic!("phantoms have label maps");
    };
    for index in 0..2000 {
        for (part, file) in [("images", &dataset.cases[0].image), ("labels", labels)] {
            let name = format!("many/{part}/c{index:04}.nii.gz");
            std::os::unix::fs::symlink(file, folder.path().join(name)).unwrap();
        }
    }
    let values: Vec<String> = dataset
        .structures
        .iter()
        .map(|s| format!("{} = {}", s.name, s.value))
        .collect();
    std::fs::write(
        folder.path().join("many/dataset.toml"),
        format!(
            "name = \"many\"\nimages = \"images/*.nii.gz\"\nlabels = \"labels/{{case}}.nii.gz\"\n[structures]\n{}\n",
            values.join("\n")
        ),
    )
    .unwrap();
    let arguments = [
        "fit",
        "--stage",
        "1",
        "--data",
        "many/dataset.toml",
        "--threads",
        "1",
    ];
    let child = ctseg(folder.path(), &arguments)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let asked = Instant::now();
    signal(&child, "-USR1");
    let output = child.wait_with_output().unwrap();
    let log = stderr(&output);
    assert_eq!(output.status.code(), Some(75), "{log}");
    assert!(log.contains("the data was being checked"), "{log}");
    let took = asked.elapsed();
    assert!(
        took < Duration::from_secs(15),
        "stopped only after {took:?}"
    );
    assert!(find_only(&folder.path().join("runs")).is_none());
}
