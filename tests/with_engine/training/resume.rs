//! Training killed at any time, stopped, or out of time, and resumed: the same bytes as an uninterrupted run.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use crate::common::runs::{fit_one_fold, only_run, resume_one_fold, stage1_bytes};
use crate::common::{ctseg, engines, phantoms, run, stderr};
use ctseg_core::run::checkpoint::{Checkpoint, CheckpointFolder};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Trains one fold of a small stage 1, with every random option on.
fn arguments<'a>(data: &'a Path, engine: &'a str, set: &[&'a str]) -> Vec<&'a str> {
    let random = [
        "training.augmentation.enabled=true",
        "network.dropout=0.3",
        "training.early_stopping.patience=100",
        "training.batch_size=2",
        // Some steps write a checkpoint, others do not.
        "training.checkpoint_minutes=0.0005",
    ];
    fit_one_fold(data, engine, &[&random[..], set].concat())
}

fn checkpoints(folder: &Path) -> CheckpointFolder {
    CheckpointFolder::new(only_run(folder).join("checkpoints/fold_0"))
}

fn written(folder: &Path) -> Option<SystemTime> {
    let runs = folder.join("runs");
    let run = std::fs::read_dir(runs).ok()?.next()?.ok()?.path();
    let last = run.join("checkpoints/fold_0/last.safetensors");
    last.metadata().ok()?.modified().ok()
}

/// Starts ctseg and sends it `signal` at `after` its first new checkpoint; false if it had finished before.
fn interrupted(folder: &Path, arguments: &[&str], signal: &str, after: Duration) -> bool {
    let before = written(folder);
    let mut child = ctseg(folder, arguments)
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while written(folder) == before {
        assert!(start.elapsed() < Duration::from_secs(240), "no checkpoint");
        if child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(after);
    let pid = child.id().to_string();
    let sent = std::process::Command::new("kill")
        .args([signal, &pid])
        .stderr(std::process::Stdio::null())
        .status();
    sent.unwrap();
    !child.wait().unwrap().success()
}

/// Trains without interruption, and again interrupted `times` times by `signal` at random moments.
fn same_bytes(engine: &str, set: &[&str], (signal, times): (&str, usize), seed: u64) {
    let data = tempfile::tempdir().unwrap();
    let descriptor = phantoms(data.path(), 4, 0);
    let arguments = arguments(&descriptor, engine, set);
    let whole = tempfile::tempdir().unwrap();
    run(whole.path(), &arguments, 0);

    let folder = tempfile::tempdir().unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut landed = 0;
    for index in 0..times {
        let after = Duration::from_millis(rng.random_range(0..250));
        let run_folder = (index > 0).then(|| only_run(folder.path()));
        let hit = match &run_folder {
            None => interrupted(folder.path(), &arguments, signal, after),
            Some(run) => {
                let again = resume_one_fold(run, engine);
                interrupted(folder.path(), &again, signal, after)
            }
        };
        landed += usize::from(hit);
        let progress = Checkpoint::load(&checkpoints(folder.path()).last()).map(|c| c.progress);
        let place = progress.map(|progress| progress.position_text());
        println!("{engine} seed {seed}: {signal} {after:?} after a checkpoint, {hit}: {place:?}");
    }
    assert!(
        landed > 0,
        "it always finished before the signal: {engine} {set:?}"
    );
    let run_folder = only_run(folder.path());
    run(folder.path(), &resume_one_fold(&run_folder, engine), 0);
    assert!(
        stage1_bytes(folder.path()) == stage1_bytes(whole.path()),
        "{engine} {set:?}: not the same weights"
    );
    let manifest =
        |folder: &Path| std::fs::read_to_string(folder.join("model/model.toml")).unwrap();
    assert_eq!(manifest(folder.path()), manifest(whole.path()));
    // The history is also the same, except for durations.
    let history = |folder: &Path| {
        let mut history = ctseg_core::run::history::read(&only_run(folder)).unwrap();
        for line in history.values_mut().flatten() {
            line.seconds = 0.0;
        }
        history
    };
    assert_eq!(history(folder.path()), history(whole.path()));
}

#[test]
fn a_run_killed_three_times_ends_with_the_same_bytes() {
    // Average, plateau (falling at once), Adam.
    let set = [
        "training.epochs=6",
        "training.weight_average=0.95",
        "training.plateau.patience=0",
        "training.keep=last",
    ];
    for (seed, engine) in engines().into_iter().enumerate() {
        same_bytes(engine, &set, ("-KILL", 3), 11 + seed as u64);
    }
}

#[test]
fn every_optimiser_and_schedule_resumes_bit_identically() {
    let sets = [
        [
            "training.optimiser.kind=sgd",
            "training.schedule=poly",
            "training.epochs=4",
        ],
        [
            "training.optimiser.kind=adamw",
            "training.schedule=cosine",
            "training.epochs=4",
        ],
        [
            "training.optimiser.kind=rmsprop",
            "training.schedule=one_cycle",
            "training.epochs=4",
        ],
    ];
    for engine in engines() {
        for (seed, set) in sets.iter().enumerate() {
            same_bytes(engine, set, ("-KILL", 1), 23 + seed as u64);
        }
    }
}

#[test]
fn a_stopped_run_saves_its_position() {
    for engine in engines() {
        let set = ["training.epochs=4", "training.checkpoint_minutes=1000"];
        same_bytes(engine, &set, ("-TERM", 2), 31);
    }
}

#[test]
fn a_run_out_of_time_within_an_epoch_resumes_bit_identically() {
    let data = tempfile::tempdir().unwrap();
    let descriptor = phantoms(data.path(), 4, 0);
    let set = ["training.epochs=3", "training.weight_average=0.9"];
    for engine in engines() {
        let arguments = arguments(&descriptor, engine, &set);
        let whole = tempfile::tempdir().unwrap();
        run(whole.path(), &arguments, 0);
        // Nearly no time: one step of the first epoch, still with a model.
        let folder = tempfile::tempdir().unwrap();
        let hurried = [&arguments[..], &["--max-time", "1ms"]].concat();
        let log = stderr(&run(folder.path(), &hurried, 0));
        assert!(log.contains("time limit reached"), "{log}");
        let stopped = checkpoints(folder.path()).stopped();
        assert!(stopped.exists() && stage1_bytes(folder.path()) != stage1_bytes(whole.path()));
        let within = Checkpoint::load(&checkpoints(folder.path()).last()).unwrap();
        assert_eq!(within.progress.within.unwrap().batches, 1);
        let run_folder = only_run(folder.path());
        let again = resume_one_fold(&run_folder, engine);
        run(folder.path(), &again, 0);
        assert!(!stopped.exists());
        assert!(
            stage1_bytes(folder.path()) == stage1_bytes(whole.path()),
            "{engine}"
        );
    }
}

#[test]
fn a_damaged_checkpoint_falls_back_to_the_previous_one_or_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let descriptor = phantoms(data.path(), 4, 0);
    let arguments = arguments(&descriptor, "flex", &["training.epochs=3"]);
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), &arguments, 0);
    let (whole, run_folder) = (stage1_bytes(folder.path()), only_run(folder.path()));
    let again = resume_one_fold(&run_folder, "flex");
    let checkpoints = checkpoints(folder.path());
    let last = std::fs::read(checkpoints.last()).unwrap();
    let flipped = {
        let mut bytes = last.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        bytes
    };
    let before = std::fs::read(checkpoints.previous()).unwrap();
    for damaged in [&last[..last.len() / 2], &[], &flipped] {
        std::fs::write(checkpoints.last(), damaged).unwrap();
        std::fs::write(checkpoints.previous(), &before).unwrap();
        let log = stderr(&run(folder.path(), &again, 0));
        let lines: Vec<&str> = log
            .lines()
            .filter(|line| line.contains("previous checkpoint"))
            .collect();
        assert_eq!(lines.len(), 1, "{log}");
        assert!(lines[0].contains("last.safetensors"), "{log}");
        assert!(stage1_bytes(folder.path()) == whole);
    }
    // No usable checkpoint: refused, and training does not start again.
    std::fs::write(checkpoints.last(), &flipped).unwrap();
    std::fs::write(checkpoints.previous(), b"").unwrap();
    let log = stderr(&run(folder.path(), &again, 1));
    assert!(log.contains("without --resume"), "{log}");
    assert_eq!(
        log.trim()
            .lines()
            .filter(|l| l.starts_with("error"))
            .count(),
        1
    );
    assert_eq!(std::fs::read(checkpoints.last()).unwrap(), flipped);
    for file in [
        checkpoints.last(),
        checkpoints.previous(),
        checkpoints.best(),
    ] {
        std::fs::remove_file(file).unwrap();
    }
    let log = stderr(&run(folder.path(), &again, 1));
    assert!(
        log.contains("is missing although fold 0 was trained"),
        "{log}"
    );
    assert!(!checkpoints.last().exists());
}
