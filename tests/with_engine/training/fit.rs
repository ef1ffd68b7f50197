//! Training through the binary: reproducibility, resuming, reports of bad data.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::runs::{only_run, signal, stage1_bytes, wait_for};
use crate::common::{SMALL, ctseg, phantoms, run, stderr};
use ctseg_core::dataset::Dataset;
use ctseg_core::model::bundle::Bundle;
use ctseg_core::run::checkpoint::{Checkpoint, CheckpointFolder};

fn fit_arguments<'a>(data: &'a str, epochs: &'a str) -> Vec<&'a str> {
    let mut arguments = vec!["fit", "--stage", "1", "--data", data, "--epochs", epochs];
    arguments.extend(SMALL);
    arguments.extend(["--set", "training.early_stopping.patience=100"]);
    arguments
}

#[test]
fn one_seed_gives_the_same_bytes_also_in_a_killed_and_resumed_run() {
    killed_and_resumed(&[]);
}

#[test]
fn a_killed_run_resumes_its_curriculum_and_augmentation() {
    let more = [
        "training.curriculum={ epochs = 3, easiest = 0.3 }",
        "training.slice_sampling=balanced",
        "training.patch_size=[16, 24]",
        "training.augmentation={ elastic_probability = 0.7, hu_shift_probability = 0.7, metal_probability = 0.5, coarse_dropout_probability = 0.7 }",
    ];
    let more: Vec<&str> = more.iter().flat_map(|set| ["--set", set]).collect();
    killed_and_resumed(&more);
}

#[test]
fn predefined_folds_are_trained_and_a_resumed_run_keeps_them() {
    let folder = tempfile::tempdir().unwrap();
    let descriptor = phantoms(folder.path(), 4, 0);
    let dataset = Dataset::open(&descriptor).unwrap();
    let ids: Vec<&str> = dataset.cases.iter().map(|case| case.id.as_str()).collect();
    let held_out = [&ids[3..], &ids[1..2], &ids[..1]];
    let fold = |val: &[&str]| {
        let train: Vec<&&str> = ids[..3].iter().filter(|id| !val.contains(id)).collect();
        serde_json::json!({"train": train, "val": val})
    };
    let file = dataset.root.join("splits_final.json");
    let folds = serde_json::json!(held_out.map(fold));
    std::fs::write(&file, folds.to_string()).unwrap();
    let mut arguments = fit_arguments(descriptor.to_str().unwrap(), "1");
    arguments.push("--no-out-of-fold");
    let log = stderr(&run(folder.path(), &arguments, 0));
    assert!(
        log.contains("using the 3 folds of") && log.contains("instead of the recipe's 2"),
        "{log}"
    );
    let assert_held_out = || {
        let bundle = Bundle::open(&folder.path().join("model")).unwrap();
        let stage = bundle.stage(1).unwrap();
        let found: Vec<&[String]> = stage.folds.iter().map(|fold| &fold.held_out[..]).collect();
        assert_eq!(found, held_out);
        assert_eq!(stage.recipe.folds, 3);
    };
    assert_held_out();
    std::fs::write(&file, "[]").unwrap();
    let run_folder = only_run(folder.path());
    std::fs::remove_dir_all(folder.path().join("model")).unwrap();
    let resume = ["fit", "--resume", run_folder.to_str().unwrap()];
    run(folder.path(), &resume, 0);
    assert_held_out();
}

/// Compares a run with another of the same seed that is killed and resumed.
fn killed_and_resumed(more: &[&str]) {
    let data = tempfile::tempdir().unwrap();
    let descriptor = phantoms(data.path(), 4, 0);
    let mut arguments = fit_arguments(descriptor.to_str().unwrap(), "3");
    arguments.extend(["--set", "network.dropout=0.3"]); // its random numbers must be restored too
    arguments.extend(more);

    let straight = tempfile::tempdir().unwrap();
    run(straight.path(), &arguments, 0);

    // Killed without warning in the second epoch of the first fold, then resumed.
    let killed = tempfile::tempdir().unwrap();
    let mut child = ctseg(killed.path(), &arguments).spawn().unwrap();
    let last = || CheckpointFolder::new(only_run(killed.path()).join("checkpoints/fold_0")).last();
    wait_for("the run folder", || {
        killed
            .path()
            .join("runs")
            .read_dir()
            .is_ok_and(|mut d| d.next().is_some())
    });
    wait_for("the first epoch", || {
        Checkpoint::load(&last()).is_ok_and(|c| c.progress.epoch >= 1)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let run_folder = only_run(killed.path());
    run(
        killed.path(),
        &["fit", "--resume", run_folder.to_str().unwrap()],
        0,
    );
    assert!(
        stage1_bytes(killed.path()) == stage1_bytes(straight.path()),
        "the resumed run differs"
    );
    let manifest =
        |folder: &Path| std::fs::read_to_string(folder.join("model/model.toml")).unwrap();
    assert_eq!(manifest(killed.path()), manifest(straight.path()));
    // Resumed again, the run has nothing to do and changes nothing.
    run(
        killed.path(),
        &["fit", "--resume", run_folder.to_str().unwrap()],
        0,
    );
    assert!(stage1_bytes(killed.path()) == stage1_bytes(straight.path()));
}

#[test]
fn the_last_checkpoint_loads_after_a_kill_at_any_time() {
    let data = tempfile::tempdir().unwrap();
    let descriptor = phantoms(data.path(), 4, 0);
    let arguments = fit_arguments(descriptor.to_str().unwrap(), "200");
    for delay_ms in [0, 3, 11, 40, 90, 170, 300] {
        let folder = tempfile::tempdir().unwrap();
        let mut child = ctseg(folder.path(), &arguments).spawn().unwrap();
        wait_for("the first checkpoint", || {
            folder.path().join("runs").read_dir().is_ok_and(|mut runs| {
                runs.next().is_some_and(|run| {
                    run.unwrap()
                        .path()
                        .join("checkpoints/fold_0/last.safetensors")
                        .exists()
                })
            })
        });
        std::thread::sleep(Duration::from_millis(delay_ms));
        child.kill().unwrap();
        child.wait().unwrap();
        let checkpoints = CheckpointFolder::new(only_run(folder.path()).join("checkpoints/fold_0"));
        Checkpoint::load(&checkpoints.last())
            .unwrap_or_else(|error| panic!("after {delay_ms} ms: {error}"));
    }
}

#[cfg(unix)]
#[test]
fn a_stopped_run_exits_with_code_75_and_its_progress() {
    let data = tempfile::tempdir().unwrap();
    let descriptor = phantoms(data.path(), 4, 0);
    let folder = tempfile::tempdir().unwrap();
    let arguments = fit_arguments(descriptor.to_str().unwrap(), "10000");
    let child = ctseg(folder.path(), &arguments)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("the run folder", || {
        folder
            .path()
            .join("runs")
            .read_dir()
            .is_ok_and(|mut d| d.next().is_some())
    });
    wait_for("training", || {
        only_run(folder.path())
            .join("checkpoints/fold_0/best.safetensors")
            .exists()
    });
    signal(&child, "-TERM");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(75), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("fit --resume"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn the_time_limit_is_respected() {
    let folder = tempfile::tempdir().unwrap();
    let descriptor = phantoms(&folder.path().join("data"), 4, 0);
    let mut arguments = fit_arguments(descriptor.to_str().unwrap(), "100000");
    arguments.extend(["--max-time", "4s"]);
    let start = Instant::now();
    let log = stderr(&run(folder.path(), &arguments, 0));
    // Not a measurement: without the limit this would take days.
    assert!(
        start.elapsed() < Duration::from_secs(60),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(
        log.matches("time limit reached after").count(),
        2,
        "both folds end by the time limit: {log}"
    );
}

#[test]
fn every_bad_case_is_listed_before_training() {
    let folder = tempfile::tempdir().unwrap();
    let descriptor = phantoms(&folder.path().join("data"), 4, 0);
    std::fs::write(
        folder.path().join("data/images/phantom_001.nii.gz"),
        b"not a volume",
    )
    .unwrap();
    let cut = folder.path().join("data/images/phantom_002.nii.gz");
    let whole = std::fs::read(&cut).unwrap();
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let labels = folder.path().join("data/labels");
    std::fs::copy(
        labels.join("phantom_000.nii.gz"),
        labels.join("phantom_003.nii.gz"),
    )
    .unwrap();
    let output = run(
        folder.path(),
        &fit_arguments(descriptor.to_str().unwrap(), "1"),
        1,
    );
    let log = stderr(&output);
    assert!(
        ["phantom_001", "phantom_002", "phantom_003"]
            .iter()
            .all(|case| log.contains(case)),
        "{log}"
    );
    assert!(
        !folder.path().join("runs").exists(),
        "no training on invalid data"
    );
}

#[test]
fn stage_2_without_stage_1_is_refused_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let descriptor = phantoms(&folder.path().join("data"), 5, 0);
    let output = run(
        folder.path(),
        &[
            "fit",
            "--stage",
            "2",
            "--data",
            descriptor.to_str().unwrap(),
            "--set",
            "folds=5",
        ],
        1,
    );
    assert!(
        stderr(&output).contains("fit --stage 1"),
        "{}",
        stderr(&output)
    );
    // Wrong usage has its own exit code.
    run(folder.path(), &["fit"], 2);
    run(folder.path(), &["predict"], 2);
    run(folder.path(), &["fit", "--stage", "7"], 2);
    run(
        folder.path(),
        &["fit", "--stage", "1", "--set", "nonsense"],
        2,
    );
}

#[test]
fn flags_override_the_environment_which_overrides_the_file() {
    let folder = tempfile::tempdir().unwrap();
    phantoms(&folder.path().join("data"), 4, 0);
    std::fs::write(
        folder.path().join("ctseg.toml"),
        "data = \"data\"\nmodel = \"from-file\"\n",
    )
    .unwrap();
    let mut arguments = vec!["fit", "--stage", "1", "--epochs", "1"];
    arguments.extend(SMALL);
    run(folder.path(), &arguments, 0);
    assert!(folder.path().join("from-file/model.toml").exists());
    let status = ctseg(folder.path(), &arguments)
        .env("CTSEG_MODEL", "from-environment")
        .status()
        .unwrap();
    assert!(status.success() && folder.path().join("from-environment/model.toml").exists());
    arguments.extend(["--model", "from-flag"]);
    let status = ctseg(folder.path(), &arguments)
        .env("CTSEG_MODEL", "from-environment")
        .status()
        .unwrap();
    assert!(status.success() && folder.path().join("from-flag/model.toml").exists());
    std::fs::write(folder.path().join("ctseg.toml"), "dta = \"data\"\n").unwrap();
    let output = run(folder.path(), &arguments, 1);
    assert!(
        stderr(&output).contains("dta") && stderr(&output).contains("ctseg.toml"),
        "{}",
        stderr(&output)
    );
}
