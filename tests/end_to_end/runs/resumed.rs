//! Resumed runs: data and folds are compared, flags are checked, epochs are extended.

use std::fs;
use std::io::Read;
use std::path::Path;

use crate::common::batches::json;
use crate::common::runs::only_run;
use crate::common::{SMALL, ctseg, run, stderr, tiny_ct};
use ctseg_core::recipe::schedule::{Schedule, ScheduleSettings};
use ctseg_core::run::checkpoint::{CheckpointFolder, Progress, StopReason};
use ctseg_core::run::history;
use ctseg_core::run::history::EpochLine;

const BOTH: &[u16] = &[1, 2];

/// Arguments of a small fit: one fold of stage 1 on `data`.
fn arguments<'a>(data: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let fit = ["fit", "--stage", "1", "--data", data, "--fold", "0"];
    let flags = ["--no-out-of-fold", "--no-mlflow", "--device", "flex"];
    [&fit[..], &flags, &SMALL, more].concat()
}

/// Resumes the run with more flags; returns stderr.
fn resume(folder: &Path, run_folder: &Path, more: &[&str], code: i32) -> String {
    let again = ["--device", "flex", "fit", "--resume"];
    let again = [&again[..], &[run_folder.to_str().unwrap()], more].concat();
    stderr(&run(folder, &again, code))
}

fn epochs(run_folder: &Path) -> Vec<EpochLine> {
    history::read(run_folder).unwrap().remove("fold 0").unwrap()
}

#[test]
fn a_run_resumes_with_moved_data() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    tiny_ct::dataset(&at("d"), &[BOTH; 4]);
    run(folder.path(), &arguments("d", &["--epochs", "1"]), 0);
    let run_folder = only_run(folder.path());
    let weights = || fs::read(at("model/stage1.safetensors")).unwrap();
    let manifest = || fs::read_to_string(at("model/model.toml")).unwrap();
    let (trained, described) = (weights(), manifest());
    // The data fingerprint is by content; the folds are in nnU-Net's format.
    let data = json(&run_folder.join("data_fingerprint.json"));
    assert_eq!(data["cases"].as_array().unwrap().len(), 4);
    assert!(!data.to_string().contains(folder.path().to_str().unwrap()));
    let folds = json(&run_folder.join("splits.json"));
    assert_eq!(folds.as_array().unwrap().len(), 2);

    // Moved and recompressed.
    fs::rename(at("d"), at("elsewhere")).unwrap();
    let log = resume(folder.path(), &run_folder, &[], 1);
    assert!(log.contains("/d: dataset not found") && log.contains("--data"));
    recompress(&at("elsewhere/images/c1.nii.gz"));
    resume(folder.path(), &run_folder, &["--data", "elsewhere"], 0);
    assert!(weights() == trained && manifest() == described);
    // The next resume needs no flag.
    let settings = || fs::read_to_string(run_folder.join("run.toml")).unwrap();
    assert!(settings().contains("/elsewhere\""), "{}", settings());
    resume(folder.path(), &run_folder, &[], 0);
    // As a job with other mounts: the variable applies only if the recorded path does not exist.
    fs::rename(at("elsewhere"), at("mounted")).unwrap();
    let again = ["fit", "--resume", run_folder.to_str().unwrap()];
    for data in ["mounted", "nowhere"] {
        let mut command = ctseg(folder.path(), &again);
        let output = command.env("CTSEG_DATA", data).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(settings().contains("/mounted\""), "{}", settings());
    }
}

/// The same content in other bytes.
fn recompress(path: &Path) {
    let mut plain = Vec::new();
    let bytes = fs::read(path).unwrap();
    flate2::read::GzDecoder::new(&bytes[..])
        .read_to_end(&mut plain)
        .unwrap();
    let file = fs::File::create(path).unwrap();
    let mut coder = flate2::write::GzEncoder::new(file, flate2::Compression::none());
    std::io::Write::write_all(&mut coder, &plain).unwrap();
    coder.finish().unwrap();
}

#[test]
fn a_run_does_not_resume_with_other_data() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("d");
    tiny_ct::dataset(&data, &[BOTH; 4]);
    run(folder.path(), &arguments("d", &["--epochs", "1"]), 0);
    let run_folder = only_run(folder.path());
    let weights = || fs::read(folder.path().join("model/stage1.safetensors")).unwrap();
    let trained = weights();
    let refused = |expected: &str| {
        let log = resume(folder.path(), &run_folder, &[], 1);
        assert!(log.contains(expected), "{expected}: {log}");
        assert_eq!(log.matches("error: ").count(), 1, "{log}");
        assert!(weights() == trained);
    };
    tiny_ct::write_case(&data, "c4", 4, BOTH);
    refused("1 case added (c4)");
    for name in ["images/c4.nii.gz", "labels/c4.nii.gz"] {
        fs::remove_file(data.join(name)).unwrap();
    }
    tiny_ct::write_case(&data, "c0", 0, &[2]);
    refused("1 case with another image (c0); 1 case with other labels (c0)");
    tiny_ct::write_case(&data, "c0", 0, BOTH);
    let renamed = |from: &str, to: &str| {
        for part in ["images", "labels"] {
            let name = |case: &str| data.join(part).join(format!("{case}.nii.gz"));
            fs::rename(name(from), name(to)).unwrap();
        }
    };
    renamed("c3", "z3");
    refused("1 case renamed (c3 to z3)");
    renamed("z3", "c3");
    let descriptor = fs::read_to_string(data.join("dataset.toml")).unwrap();
    let other = descriptor.replace("b = 2", "c = 2");
    fs::write(data.join("dataset.toml"), other).unwrap();
    let log = resume(folder.path(), &run_folder, &[], 1);
    assert!(log.contains("structures"), "{log}");
    fs::write(data.join("dataset.toml"), descriptor).unwrap();
    resume(folder.path(), &run_folder, &[], 0);
}

#[test]
fn flags_that_resume_cannot_honour_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |command: &str, flags: &[&str]| {
        let line = [&[command, "--resume", "runs/x"], flags].concat();
        let log = stderr(&run(folder.path(), &line, 2));
        assert!(log.contains(flags[0]) && log.contains("--resume"), "{log}");
        assert_eq!(log.lines().count(), 1, "{log}");
    };
    for flags in [
        &["--stage", "1"][..],
        &["--set", "folds=3"],
        &["--no-out-of-fold"],
        &["--fold", "0"],
        &["--seed", "1"],
        &["--from", "m"],
        &["--model", "m"],
        &["--runs", "r"],
        &["--experiment", "e"],
        &["--mlflow-parent-run", "p"],
        &["--mlflow-group", "g"],
    ] {
        refused("fit", flags);
    }
    for flags in [
        &["--vary", "folds=3"][..],
        &["--epochs", "3"],
        &["--rungs", "3"],
        &["--eta", "3"],
        &["--model", "m"],
        &["--runs", "r"],
    ] {
        refused("sweep", flags);
    }
    // Environment variables apply to new runs and are not flags.
    let mut command = ctseg(folder.path(), &["fit", "--resume", "runs/x"]);
    let environment = [
        ("CTSEG_MODEL", "m"),
        ("CTSEG_RUNS", "r"),
        ("CTSEG_DATA", "d"),
    ];
    let output = command.envs(environment).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("runs/x/recipe.toml"));
}

#[test]
fn a_finished_run_extends_to_more_epochs_with_their_schedule() {
    let folder = tempfile::tempdir().unwrap();
    tiny_ct::dataset(&folder.path().join("d"), &[BOTH; 4]);
    let set = [
        "--epochs",
        "2",
        "--set",
        "training.schedule=cosine",
        "--set",
        "training.early_stopping.patience=100",
    ];
    run(folder.path(), &arguments("d", &set), 0);
    let run_folder = only_run(folder.path());
    let log = resume(folder.path(), &run_folder, &["--epochs", "2"], 0);
    assert!(!log.contains("resuming to"), "{log}");
    let log = resume(folder.path(), &run_folder, &["--epochs", "1"], 2);
    assert!(log.contains("fold 0 has done 2 epochs already"), "{log}");
    let log = resume(folder.path(), &run_folder, &["--epochs", "4"], 0);
    assert!(log.contains("resuming to 4 epochs instead of 2"), "{log}");
    assert!(
        log.contains("fold 0: epochs 3 to 4 follow; learning rate"),
        "{log}"
    );
    let lines = epochs(&run_folder);
    let cosine = |learning_rate: f64, epochs: usize, epoch: usize| {
        let settings = ScheduleSettings {
            learning_rate,
            epochs,
            warmup_epochs: 0,
        };
        Schedule::Cosine.learning_rate(&settings, epoch).unwrap()
    };
    let first = lines[0].learning_rate;
    let rates: Vec<f64> = lines.iter().map(|line| line.learning_rate).collect();
    let expected = [
        first,
        cosine(first, 2, 1),
        cosine(first, 4, 2),
        cosine(first, 4, 3),
    ];
    assert_eq!(rates, expected);
    assert_eq!(lines[3].ended, Some(StopReason::AllEpochsDone));
    let recipe = fs::read_to_string(run_folder.join("recipe.toml")).unwrap();
    assert!(recipe.contains("epochs = 4"), "{recipe}");
    // The same command again, as in a requeued job, has nothing to do.
    resume(folder.path(), &run_folder, &["--epochs", "4"], 0);
    assert_eq!(epochs(&run_folder).len(), 4);
}

#[test]
fn an_early_stopped_run_is_extended_with_fresh_patience() {
    let folder = tempfile::tempdir().unwrap();
    tiny_ct::dataset(&folder.path().join("d"), &[BOTH; 4]);
    let set = [
        "--epochs",
        "9",
        "--set",
        "training.early_stopping.patience=2",
        "--set",
        "training.early_stopping.smallest_gain=2.0",
    ];
    run(folder.path(), &arguments("d", &set), 0);
    let run_folder = only_run(folder.path());
    assert_eq!(
        epochs(&run_folder).last().unwrap().ended,
        Some(StopReason::EarlyStopping)
    );
    let before = epochs(&run_folder).len();
    resume(folder.path(), &run_folder, &[], 0);
    assert_eq!(epochs(&run_folder).len(), before);
    resume(folder.path(), &run_folder, &["--epochs", "10"], 0);
    assert_eq!(epochs(&run_folder).len(), before + 2);
    let checkpoints = CheckpointFolder::new(run_folder.join("checkpoints/fold_0"));
    let last = ctseg_core::run::checkpoint::Checkpoint::load(&checkpoints.last()).unwrap();
    let Progress { ended, epoch, .. } = last.progress;
    assert_eq!(
        (ended, epoch),
        (Some(StopReason::EarlyStopping), before + 2)
    );
}

#[test]
fn a_sweep_resumes_with_moved_data_but_not_with_other_data() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    tiny_ct::dataset(&at("d"), &[BOTH; 4]);
    let sweep = ["sweep", "--stage", "1", "--data", "d", "--rungs", "1"];
    let vary = [
        "--vary",
        "training.optimiser.learning_rate=1e-3",
        "--epochs",
        "1",
    ];
    let flags = ["--no-mlflow", "--device", "flex"];
    run(
        folder.path(),
        &[&sweep[..], &vary, &flags, &SMALL].concat(),
        0,
    );
    let sweep = only_run(folder.path());
    fs::rename(at("d"), at("elsewhere")).unwrap();
    let resume = |more: &[&str], code: i32| {
        let again = ["--device", "flex", "sweep", "--resume"];
        let again = [&again[..], &[sweep.to_str().unwrap()], more].concat();
        stderr(&run(folder.path(), &again, code))
    };
    assert!(resume(&[], 1).contains("--data"));
    resume(&["--data", "elsewhere"], 0);
    resume(&[], 0);
    tiny_ct::write_case(&at("elsewhere"), "c4", 4, BOTH);
    let log = resume(&[], 1);
    assert!(log.contains("1 case added (c4)"), "{log}");
    // A trial is a separate run with the sweep's data.
    let trial = sweep.join("trials/000");
    let again = [
        "--device",
        "flex",
        "fit",
        "--resume",
        trial.to_str().unwrap(),
    ];
    let log = stderr(&run(folder.path(), &again, 1));
    assert!(log.contains("1 case added (c4)"), "{log}");
}
