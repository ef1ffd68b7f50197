//! Messages of commands: each error and warning once, in plain English, with what to do.

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::common::batches::{ball, batch, small_grid};
use crate::common::{ctseg, run, run_json, stderr};
use ctseg_image::nifti::{NiftiHeader, VoxelType, write_labels, write_volume};
use ctseg_image::space::LabelMap;

mod inspect;

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Writes `images/` and `labels/` in `root`; the label maps contain a block of 1 and one of 2. With `ignore` in
/// nnU-Net's layout, where 2 is the ignore label.
fn dataset(root: &Path, cases: usize, ignore: bool) {
    let (images, labels) = match ignore {
        true => ("imagesTr", "labelsTr"),
        false => ("images", "labels"),
    };
    let grid = small_grid();
    for case in 0..cases {
        let mut map = LabelMap::empty(grid);
        map.data.slice_mut(ndarray::s![2..8, 2..8, 2..8]).fill(1);
        map.data.slice_mut(ndarray::s![9..14, 2..8, 2..8]).fill(2);
        let channel = if ignore { "_0000" } else { "" };
        let image = root.join(format!("{images}/c{case}{channel}.nii.gz"));
        let label = root.join(format!("{labels}/c{case}.nii.gz"));
        for path in [&image, &label] {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
        }
        write_volume(&image, &ball(case, grid), VoxelType::I16).unwrap();
        write_labels(&label, &map, &NiftiHeader::for_grid(&grid).unwrap()).unwrap();
    }
    if ignore {
        let text = format!(
            r#"{{"channel_names": {{"0": "CT"}}, "labels": {{"background": 0, "liver": 1, "ignore": 2}},
                "numTraining": {cases}, "file_ending": ".nii.gz"}}"#
        );
        fs::write(root.join("dataset.json"), text).unwrap();
    }
}

#[test]
fn an_io_error_states_its_cause_once() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        &["--config", "nowhere.toml", "inspect", "x.nii"][..],
        &["predict", "@nowhere.txt", "-o", "out"],
        &["fit", "--stage", "nowhere.toml"],
        &["inspect", "nowhere.nii.gz"],
        &["report", "nowhere", "-o", "x.html"],
    ] {
        let log = stderr(&run(folder.path(), arguments, 1));
        assert!(
            log.starts_with("error: ") && log.lines().count() == 1,
            "{log}"
        );
        assert!(log.matches("No such file").count() <= 1, "{log}");
        assert!(log.matches("nowhere").count() == 1, "{log}");
    }
}

#[test]
fn an_output_path_that_is_a_file_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    batch(folder, 1);
    dataset(&folder.join("data"), 2, false);
    fs::write(folder.join("afile"), "mine").unwrap();
    let results = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/golden/nnunet/Dataset900_tiny"
    );
    for arguments in [
        &["predict", "images", "-o", "afile"][..],
        &["predict", "images", "-o", "afile/deeper"],
        &["predict", "images", "-o", "out", "--claim", "afile"],
        &["evaluate", "data/labels", "data", "-o", "afile"],
        &["convert", "data", "--to", "nnunet", "-o", "afile"],
        &["convert", "data", "--to", "msd", "-o", "afile"],
        &["plan", "data", "-o", "afile"],
        &["import", "nnunet", results, "-o", "afile"],
        &["export", "nnunet", "model", "-o", "afile"],
        &["export", "safetensors", "model", "-o", "afile"],
        &["fit", "--stage", "1", "--data", "data", "--model", "afile"],
        &[
            "fit", "--stage", "1", "--data", "data", "--runs", "afile", "--set", "folds=2",
        ],
        &[
            "sweep",
            "--stage",
            "1",
            "--data",
            "data",
            "--runs",
            "afile",
            "--set",
            "folds=2",
            "--vary",
            "training.epochs=1",
        ],
        &["demo", "--output", "afile"],
    ] {
        let output = ctseg(folder, arguments).output().unwrap();
        let log = stderr(&output);
        let error = log.lines().last().unwrap_or_default();
        assert!(
            error.starts_with("error: ") && error.contains("afile: is a file"),
            "{arguments:?}: {log}"
        );
        assert!(matches!(output.status.code(), Some(1 | 2)), "{arguments:?}");
        assert_eq!(fs::read_to_string(folder.join("afile")).unwrap(), "mine");
    }
}

#[test]
fn predict_prints_each_warning_once_and_a_line_per_volume() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    batch(folder, 2);
    fs::write(folder.join("images/bad.nii.gz"), "no volume").unwrap();
    let predict = ["predict", "images", "-o", "out", "--device", "flex"];
    let output = run(folder, &predict, 3);
    let (log, printed) = (stderr(&output), stdout(&output));
    assert!(printed.starts_with("2 of 3 volumes segmented"), "{printed}");
    let listed = "  failed  1, listed in out/failures.jsonl";
    assert!(printed.lines().any(|line| line == listed), "{printed}");
    let both = log.clone() + &printed;
    let warnings: Vec<&str> = log
        .lines()
        .filter(|line| line.starts_with("warning: "))
        .collect();
    assert!(
        warnings.iter().any(|line| line.contains("bad.nii.gz")),
        "{log}"
    );
    for warning in warnings {
        let text = warning
            .trim_start_matches("warning: ")
            .trim_start_matches("failed: ");
        assert_eq!(both.matches(text).count(), 1, "{text} in {both}");
    }
    for case in ["case_00", "case_01"] {
        let line = |line: &&str| line.contains(&format!("/3 images/{case}.nii.gz: "));
        let lines: Vec<&str> = log.lines().filter(line).collect();
        assert!(lines.len() == 1 && lines[0].ends_with(" s"), "{log}");
    }
    // A kept case has its line too; one volume is singular.
    let one = [
        "predict",
        "images/case_00.nii.gz",
        "-o",
        "out",
        "--device",
        "flex",
    ];
    let output = run(folder, &one, 0);
    assert!(
        stderr(&output).contains("  1/1 images/case_00.nii.gz: kept"),
        "{}",
        stderr(&output)
    );
    let printed = stdout(&output);
    assert!(printed.starts_with("0 of 1 volume segmented"), "{printed}");
    assert!(
        printed.contains("kept    1 label map of the same input and model"),
        "{printed}"
    );
}

#[test]
fn a_refused_training_is_reported_once() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    dataset(&folder.join("data"), 3, false);
    let fit = |more: &[&str]| {
        let fit = ["fit", "--stage", "1", "--data", "data", "--device", "flex"];
        let output = ctseg(folder, &[&fit[..], more].concat()).output().unwrap();
        assert_ne!(output.status.code(), Some(0));
        stderr(&output)
    };
    // Too few patients.
    let log = fit(&["--set", "folds=9"]);
    assert!(!log.contains("not tracked"), "{log}");
    let error = log.lines().last().unwrap().strip_prefix("error: ").unwrap();
    assert_eq!(log.matches(error).count(), 1, "{log}");
    // A broken label map is named once, although the error at the end counts the problems.
    fs::write(folder.join("data/labels/c1.nii.gz"), "no volume").unwrap();
    let log = fit(&["--set", "folds=2"]);
    assert_eq!(log.matches("labels/c1.nii.gz").count(), 1, "{log}");
    assert!(log.contains("1 problem in 1 of 3 cases"), "{log}");
}
