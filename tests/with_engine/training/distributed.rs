//! Distributed training with several processes, started by Open MPI's `mpirun`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::runs::{fit_one_fold, only_run, resume_one_fold, stage1_bytes};
use crate::common::{ctseg, engines, phantoms, run};
use ctseg_core::run::checkpoint::Checkpoint;

/// Trains one fold of a small, smooth stage 1: with max pooling or ReLU, rounding differences between processes would
/// grow over time.
fn arguments<'a>(data: &'a Path, engine: &'a str, set: &[&'a str]) -> Vec<&'a str> {
    let smooth = [
        "training.augmentation.enabled=true",
        "network.norm=instance",
        "network.activation=leaky_relu",
        "network.downsampling=stride",
    ];
    let fit = fit_one_fold(data, engine, &[&smooth[..], set].concat());
    [&fit[..], &["--no-out-of-fold"]].concat()
}

/// `mpirun` in `folder`, still without a program.
fn launcher(folder: &Path, processes: usize, options: &[&str]) -> Command {
    let mut command = Command::new("mpirun");
    command
        .current_dir(folder)
        .args([
            "--allow-run-as-root",
            "--oversubscribe",
            "--bind-to",
            "none",
        ])
        .args(["-n", &processes.to_string()])
        .args(options);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CTSEG_")) {
        command.env_remove(name);
    }
    command
}

/// `mpirun` with the binary, in `folder`.
fn mpirun(folder: &Path, processes: usize, options: &[&str], arguments: &[&str]) -> Command {
    let of_binary = ctseg(folder, arguments);
    let mut command = launcher(folder, processes, options);
    command
        .arg(of_binary.get_program())
        .args(of_binary.get_args());
    command
}

fn finished(mut command: Command, code: i32) -> Output {
    let output = command.output().expect("mpirun (scripts/setup-mpi)");
    assert_eq!(output.status.code(), Some(code), "{}", text(&output));
    output
}

fn text(output: &Output) -> String {
    let of = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}", of(&output.stdout), of(&output.stderr))
}

fn last(folder: &Path) -> PathBuf {
    only_run(folder).join("checkpoints/fold_0/last.safetensors")
}

/// The largest difference of a weight, relative to the largest weight of its tensor; the steps taken.
fn difference(a: &Path, b: &Path) -> (f64, u64) {
    let (a, b) = (Checkpoint::load(a).unwrap(), Checkpoint::load(b).unwrap());
    assert_eq!(a.progress.optimiser_steps, b.progress.optimiser_steps);
    assert_eq!(a.network.len(), b.network.len());
    let of = |(name, a): (&String, &ctseg_engine::weights::HostTensor)| {
        let b = &b.network[name];
        let largest = b.values.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        let differences = a.values.iter().zip(&b.values).map(|(a, b)| (a - b).abs());
        f64::from(differences.fold(0.0f32, f32::max) / largest.max(1e-3))
    };
    let worst = a.network.iter().map(of).fold(0.0, f64::max);
    (worst, a.progress.optimiser_steps)
}

/// Trains with one process, and with `processes` that share the same batches.
fn same_weights(processes: usize, engine: &str, set: &[&str], steps: u64) {
    let data = tempfile::tempdir().unwrap();
    let descriptor = phantoms(data.path(), 4, 0);
    let arguments = arguments(&descriptor, engine, set);
    let (one, several) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    run(one.path(), &arguments, 0);
    let output = finished(mpirun(several.path(), processes, &[], &arguments), 0);
    let (worst, taken) = difference(&last(several.path()), &last(one.path()));
    println!("{engine}, {processes} processes, {taken} steps, {set:?}: {worst:.1e}");
    assert_eq!(taken, steps);
    assert!(worst < 1e-5, "{engine} {set:?}: {worst:.1e}");
    assert!(
        worst > 0.0 || steps == 0,
        "bit-identical, as if there was only one process"
    );
    // Only rank 0 logs and writes.
    let log = text(&output);
    assert_eq!(log.matches("stage 1 trained in").count(), 1, "{log}");
    let of = |folder: &Path| {
        let history = ctseg_core::run::history::read(&only_run(folder)).unwrap();
        let epochs: Vec<_> = history.values().flatten().collect();
        epochs
            .iter()
            .map(|e| e.validation_dice.unwrap())
            .collect::<Vec<f64>>()
    };
    let (one, several) = (of(one.path()), of(several.path()));
    assert_eq!(one.len(), several.len());
    for (one, several) in one.iter().zip(&several) {
        assert!((one - several).abs() < 1e-3, "{one} {several}");
    }
}

const SGD: [&str; 4] = [
    "training.optimiser.kind=sgd",
    "training.optimiser.learning_rate=0.01",
    "training.batch_size=4",
    "training.patches_per_epoch=40",
];

#[test]
fn two_processes_give_the_weights_of_one() {
    for engine in engines() {
        let set = [&SGD[..], &["training.epochs=2"]].concat();
        same_weights(2, engine, &set, 20);
    }
}

#[test]
fn shares_may_be_uneven_and_batches_smaller_than_the_process_group() {
    for engine in engines() {
        // Per epoch two batches of 5 and one of 1, for three processes.
        let uneven = ["training.batch_size=5", "training.patches_per_epoch=11"];
        let loss = ["training.epochs=3", "training.loss=dice"];
        same_weights(3, engine, &[&SGD[..], &uneven, &loss].concat(), 9);
    }
}

#[cfg(feature = "libtorch")]
#[test]
fn micro_batches_of_shares_give_the_same_weights() {
    let parts = ["training.micro_batches=2", "training.epochs=2"];
    same_weights(2, "libtorch", &[&SGD[..], &parts].concat(), 20);
}

#[cfg(feature = "libtorch")]
#[test]
fn synchronised_batch_normalisation_sees_the_whole_batch() {
    let data = tempfile::tempdir().unwrap();
    let descriptor = phantoms(data.path(), 4, 0);
    let set = [&SGD[..], &["training.epochs=2", "network.norm=batch"]].concat();
    let trained = |processes: usize, set: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let arguments = arguments(&descriptor, "libtorch", set);
        finished(mpirun(folder.path(), processes, &[], &arguments), 0);
        folder
    };
    let one = trained(1, &set);
    let sync = [&set[..], &["training.sync_norms=true"]].concat();
    for more in [&[][..], &["training.recompute=true"]] {
        let several = trained(2, &[&sync[..], more].concat());
        let (worst, steps) = difference(&last(several.path()), &last(one.path()));
        println!("{more:?}: {worst:.1e} after {steps} steps");
        assert!(steps == 20 && worst < 1e-5, "{more:?}: {worst:.1e}");
    }
    let (worst, _) = difference(&last(trained(2, &set).path()), &last(one.path()));
    assert!(
        worst > 1e-4,
        "unsynchronised shares cannot give the same: {worst:.1e}"
    );
}

/// The processes that `mpirun` started in `folder`, in rank order.
fn processes(folder: &Path, count: usize) -> Vec<u32> {
    let rank = |pid: u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
        let cwd = std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        let environment = String::from_utf8_lossy(&environment).into_owned();
        let rank = environment
            .split('\0')
            .find_map(|v| v.strip_prefix("OMPI_COMM_WORLD_RANK="))?;
        (cwd == folder.canonicalize().ok()?).then(|| rank.parse::<usize>().ok())?
    };
    let start = Instant::now();
    loop {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let mut found: Vec<(usize, u32)> = pids
            .filter_map(|pid| rank(pid).map(|rank| (rank, pid)))
            .collect();
        found.sort_unstable();
        if found.len() == count {
            return found.into_iter().map(|(_, pid)| pid).collect();
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{found:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn send(signal: &str, pid: u32) {
    let sent = Command::new("kill")
        .args([signal, &pid.to_string()])
        .status();
    assert!(sent.unwrap().success());
}

/// Starts a long training with two processes and sends `signal` to one of them.
fn signalled(
    folder: &Path,
    options: &[&str],
    arguments: &[&str],
    (signal, rank): (&str, usize),
) -> Child {
    let mut command = mpirun(folder, 2, options, arguments);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pids = processes(folder, 2);
    let start = Instant::now();
    let written = || {
        let run = std::fs::read_dir(folder.join("runs"))
            .ok()?
            .next()?
            .ok()?
            .path();
        let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).ok()?;
        (metrics.lines().count() >= 2).then_some(())
    };
    while written().is_none() {
        assert!(start.elapsed() < Duration::from_secs(120), "no epoch");
        std::thread::sleep(Duration::from_millis(20));
    }
    send(signal, pids[rank]);
    child
}

const LONG: [&str; 4] = [
    "training.epochs=2000",
    "training.early_stopping.patience=5000",
    "training.patches_per_epoch=16",
    "training.optimiser.kind=sgd",
];

#[test]
fn a_killed_process_ends_the_others_and_leaves_a_checkpoint() {
    let data = tempfile::tempdir().unwrap();
    let descriptor = phantoms(data.path(), 4, 0);
    let arguments = arguments(&descriptor, "flex", &LONG);
    // Also without the launcher: `--enable-recovery` does not end the others.
    for (options, rank) in [
        (&["--enable-recovery"][..], 1),
        (&["--enable-recovery"], 0),
        (&[], 1),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let child = signalled(folder.path(), options, &arguments, ("-KILL", rank));
        let signalled_at = Instant::now();
        let output = child.wait_with_output().unwrap();
        let took = signalled_at.elapsed();
        println!("{options:?}: rank {rank} killed, all over after {took:.1?}");
        assert!(took < Duration::from_secs(30), "{took:?}");
        // With recovery, Open MPI ignores the exit codes of processes.
        assert!(!output.status.success() || !options.is_empty());
        if !options.is_empty() {
            let log = text(&output);
            let expected = format!("rank {rank} of 2 has ended");
            assert!(log.contains(&expected), "{log}");
            assert!(log.contains("ctseg fit --resume"), "{log}");
        }
        let saved = Checkpoint::load(&last(folder.path())).unwrap();
        assert!(saved.progress.epoch >= 1);
        // The run can be resumed.
        let run_folder = only_run(folder.path());
        let resume = resume_one_fold(&run_folder, "flex");
        let resumed = [&resume[..], &["--max-time", "2s"]].concat();
        finished(mpirun(folder.path(), 2, &[], &resumed), 0);
        let later = Checkpoint::load(&last(folder.path())).unwrap();
        assert!(later.progress.optimiser_steps > saved.progress.optimiser_steps);
    }
}

#[test]
fn a_stop_signal_to_one_process_stops_all_and_the_run_resumes_bit_identically() {
    let data = tempfile::tempdir().unwrap();
    let descriptor = phantoms(data.path(), 4, 0);
    // Running statistics are part of the resumed state.
    let mut set = [&LONG[..], &["network.norm=batch"]].concat();
    set[0] = "training.epochs=40";
    let arguments = arguments(&descriptor, "flex", &set);
    let whole = tempfile::tempdir().unwrap();
    finished(mpirun(whole.path(), 2, &[], &arguments), 0);
    let folder = tempfile::tempdir().unwrap();
    let child = signalled(folder.path(), &[], &arguments, ("-TERM", 1));
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(75), "{}", text(&output));
    let saved = Checkpoint::load(&last(folder.path())).unwrap();
    assert!(saved.progress.ended.is_none());
    let run_folder = only_run(folder.path());
    let resumed = resume_one_fold(&run_folder, "flex");
    finished(mpirun(folder.path(), 2, &[], &resumed), 0);
    assert!(
        stage1_bytes(folder.path()) == stage1_bytes(whole.path()),
        "different weights"
    );
}

#[test]
fn an_error_in_one_process_ends_all() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("nowhere.toml");
    let nowhere = arguments(&nowhere, "flex", &[]);
    let output = mpirun(folder.path(), 2, &[], &nowhere).output().unwrap();
    assert!(!output.status.success());
    assert!(text(&output).contains("nowhere.toml"), "{}", text(&output));
    // As job scripts start one fold per process.
    let data = tempfile::tempdir().unwrap();
    let descriptor = phantoms(data.path(), 4, 0);
    let quoted = |text: &&str| format!("'{text}'");
    let each: Vec<String> = arguments(&descriptor, "flex", &["training.epochs=1"])
        .iter()
        .map(quoted)
        .collect();
    let each = each
        .join(" ")
        .replace("'--fold' '0'", "--fold $OMPI_COMM_WORLD_RANK");
    for (more, well) in [
        ("", false),
        ("--alone --model model$OMPI_COMM_WORLD_RANK", true),
    ] {
        let script = format!("exec '{}' {each} {more}", env!("CARGO_BIN_EXE_ctseg"));
        let mut command = launcher(folder.path(), 2, &[]);
        let output = command.args(["sh", "-c", &script]).output().unwrap();
        assert_eq!(output.status.success(), well, "{}", text(&output));
        assert_eq!(text(&output).contains("--alone to train each"), !well);
    }
    assert!(folder.path().join("model1/model.toml").exists());
    // Variables of several processes without MPI.
    let output = ctseg(folder.path(), &nowhere)
        .env("RANK", "0")
        .env("WORLD_SIZE", "2")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("mpirun"), "{}", text(&output));
}
