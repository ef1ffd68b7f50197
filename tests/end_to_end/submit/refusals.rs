//! What `ctseg submit slurm` refuses, and says why, before anything is submitted.

use super::*;

const PREDICT: &str = "predict images -o out --model model";

/// What is added to [`PREDICT`], the exit status and what is said.
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

/// Whole lines, the exit status and what is said.
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

/// Fails unless the line ends with `status`, says `why` and submits nothing.
fn assert_refused(place: &Place, line: &str, status: i32, why: &str) {
    let output = place.submit(line);
    code(&output, status);
    let said = stderr(&output);
    assert!(said.contains(why), "{line}: {said}");
    assert_eq!(place.jobs(), 0, "{line}");
}

#[test]
fn what_cannot_run_is_told_and_nothing_is_submitted() {
    let place = Place::new();
    for (more, status, why) in REFUSED_PREDICTIONS {
        assert_refused(&place, &format!("{PREDICT} {more}"), status, why);
    }
    for (line, status, why) in REFUSED {
        assert_refused(&place, line, status, why);
    }
    // Two reasons at once.
    let said = stderr(&place.submit(&format!("{PREDICT} --time 25h --cpus 99")));
    assert!(
        said.contains("2 problems") && said.contains("99 CPUs"),
        "{said}"
    );
}

#[test]
fn what_the_settings_file_names_is_checked_too() {
    let place = Place::new();
    let settings = place.path().join("ctseg.toml");
    std::fs::write(&settings, "model = \"images\"\ndata = \"nowhere\"\n").unwrap();
    for (line, why) in [
        ("predict images -o out", "model.toml"),
        ("fit --stage 1 --model new", "nowhere"),
    ] {
        assert_refused(&place, line, 1, why);
    }
}

#[test]
fn what_slurm_refuses_and_that_it_is_absent_are_told() {
    let place = Place::new();
    // What only Slurm knows.
    let error = "sbatch: error: Invalid account\n";
    std::fs::write(place.slurm().join("refuse"), error).unwrap();
    assert_refused(&place, &format!("{PREDICT} --cpus 4"), 1, "Invalid account");
    // No Slurm at all.
    let arguments = format!("submit slurm {PREDICT}");
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let output = ctseg(place.path(), &arguments)
        .env("PATH", "/nowhere")
        .output();
    let output = output.unwrap();
    code(&output, 1);
    let said = stderr(&output);
    assert!(
        said.contains("not in PATH") && said.contains("--dry-run"),
        "{said}"
    );
}

#[test]
fn a_dry_run_says_what_is_wrong_and_makes_nothing() {
    let place = Place::new();
    std::fs::write(place.path().join("afile"), "").unwrap();
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
        let output = place.submit(&format!("{line} --dry-run"));
        assert!(code(&output, 0).starts_with("#!"), "{line}");
        let said = stderr(&output);
        assert_eq!(said.lines().count(), 1, "{line}: {said}");
        assert!(
            said.starts_with("warning: ") && said.contains(what),
            "{line}: {said}"
        );
        assert!(said.contains("without --dry-run"), "{line}: {said}");
    }
    assert!(!place.path().join("new").exists());
    let sound = place.submit("predict images -o new --model model --dry-run");
    assert!(code(&sound, 0).starts_with("#!"));
    assert_eq!(stderr(&sound), "");
}
