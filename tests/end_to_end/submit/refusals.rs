//! Jobs that `ctseg submit slurm` refuses, with the reason, before anything is submitted.

use super::*;

const PREDICT: &str = "predict images -o out --model model";

/// Options added to [`PREDICT`], exit code and expected message.
const REFUSED_PREDICTIONS: [(&str, i32, &str); 15] = [
    ("--partition gpus", 2, "expected one of cpu, gpu, old"),
    ("--partition old", 2, "not UP"),
    ("--time 25h", 2, "allows at most 1-00:00:00"),
    ("--time 4m", 2, "the stop signal, 00:05:00"),
    ("--mem 40G --cpus 16", 2, "no node of partition 'cpu'"),
    ("--partition gpu --gpus 8", 2, "64, 515000 and 4"),
    ("--tasks 1001", 2, "MaxArraySize"),
    ("--tasks 0", 2, "--tasks"),
    ("--shard 1/2", 2, "set their number with --tasks"),
    ("--sbatch-arg=x", 2, "not a long option"),
    ("--sbatch-arg=--comment\nrm=x", 2, "not a long option"),
    ("--sbatch-arg=--comment=it's", 2, "quotes"),
    ("--sbatch-arg=--comment=a#b", 2, "quotes"),
    (
        "--tasks 4 --sbatch-arg=--array=3,7",
        2,
        "tasks between 1 and 4",
    ),
    ("--no-such-flag", 2, "--no-such-flag"),
];

/// Whole lines, exit code and expected message.
const REFUSED: [(&str, i32, &str); 9] = [
    (
        "fit --stage 1 --data images --sbatch-arg=--array=1-4",
        2,
        "a training is one job",
    ),
    (
        "predict nothing.nii.gz -o out --model model",
        1,
        "nothing.nii.gz",
    ),
    ("predict images -o out --model images", 1, "model.toml"),
    (
        "predict images -o model/model.toml/out --model model",
        1,
        "model.toml",
    ),
    ("fit --stage 1 --data nowhere", 1, "nowhere"),
    ("fit --stage 1 --set training.epoch=3", 2, "epoch"),
    ("fit --stage 9 --data images", 2, "no such recipe"),
    ("fit --resume runs/x", 2, "by itself"),
    ("fit-folds --stage 2 --fold 1", 2, "its own"),
];

/// Fails unless the line exits with `status`, prints `why` and submits nothing.
fn assert_refused(workspace: &Workspace, line: &str, status: i32, why: &str) {
    let output = workspace.submit(line);
    expect_code(&output, status);
    let log = stderr(&output);
    assert!(log.contains(why), "{line}: {log}");
    assert_eq!(workspace.jobs(), 0, "{line}");
}

#[test]
fn invalid_jobs_are_reported_and_not_submitted() {
    let workspace = Workspace::new();
    for (more, status, why) in REFUSED_PREDICTIONS {
        assert_refused(&workspace, &format!("{PREDICT} {more}"), status, why);
    }
    for (line, status, why) in REFUSED {
        assert_refused(&workspace, line, status, why);
    }
    // Two problems at once.
    let log = stderr(&workspace.submit(&format!("{PREDICT} --time 25h --cpus 99")));
    assert!(
        log.contains("2 problems") && log.contains("99 CPUs"),
        "{log}"
    );
}

#[test]
fn paths_in_the_settings_file_are_checked() {
    let workspace = Workspace::new();
    let settings = workspace.path().join("ctseg.toml");
    std::fs::write(&settings, "model = \"images\"\ndata = \"nowhere\"\n").unwrap();
    for (line, why) in [
        ("predict images -o out", "model.toml"),
        ("fit --stage 1 --model new", "nowhere"),
    ] {
        assert_refused(&workspace, line, 1, why);
    }
}

#[test]
fn refusals_by_slurm_and_a_missing_slurm_are_reported() {
    let workspace = Workspace::new();
    // Refused by Slurm itself.
    let error = "sbatch: error: Invalid account\n";
    std::fs::write(workspace.slurm().join("refuse"), error).unwrap();
    assert_refused(
        &workspace,
        &format!("{PREDICT} --cpus 4"),
        1,
        "Invalid account",
    );
    // Without Slurm.
    let arguments = format!("submit slurm {PREDICT}");
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let output = ctseg(workspace.path(), &arguments)
        .env("PATH", "/nowhere")
        .output();
    let output = output.unwrap();
    expect_code(&output, 1);
    let log = stderr(&output);
    assert!(
        log.contains("not in PATH") && log.contains("--dry-run"),
        "{log}"
    );
}

#[test]
fn a_dry_run_warns_about_problems_and_creates_nothing() {
    let workspace = Workspace::new();
    std::fs::write(workspace.path().join("afile"), "").unwrap();
    for (line, what) in [
        (
            "predict nothing.nii.gz -o new --model model",
            "nothing.nii.gz",
        ),
        ("predict images -o new --model images", "model.toml"),
        ("predict images -o afile --model model", "afile: is a file"),
        ("fit --stage 1 --data nowhere --model new/m", "nowhere"),
        ("fit-folds --stage 2 --data images --model images", "images"),
        ("chain nowhere new images out", "nowhere"),
    ] {
        let output = workspace.submit(&format!("{line} --dry-run"));
        assert!(expect_code(&output, 0).starts_with("#!"), "{line}");
        let log = stderr(&output);
        assert_eq!(log.lines().count(), 1, "{line}: {log}");
        assert!(
            log.starts_with("warning: ") && log.contains(what),
            "{line}: {log}"
        );
        assert!(log.contains("without --dry-run"), "{line}: {log}");
    }
    assert!(!workspace.path().join("new").exists());
    let sound = workspace.submit("predict images -o new --model model --dry-run");
    assert!(expect_code(&sound, 0).starts_with("#!"));
    assert_eq!(stderr(&sound), "");
}
