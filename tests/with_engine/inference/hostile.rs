//! Batches with FIFOs, endless files, links that lead elsewhere, and misleading file names: only those files fail. The
//! model has random weights.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{CWD, Mode, mkfifoat};
use serde_json::Value;

use crate::common::batches::{ball, small_grid};
use crate::common::{random_model, run, stderr};
use ctseg_image::nifti::{VoxelType, write_volume};

fn write(path: &Path) {
    write_volume(path, &ball(0, small_grid()), VoxelType::I16).unwrap();
}

fn fifo(path: &Path) {
    mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).unwrap();
}

/// Numbers of cases written and failed, and the log.
fn predicted(folder: &Path, arguments: &[&str], code: i32) -> ([usize; 2], String) {
    let arguments = [&["predict", "-o", "out", "--json"], arguments].concat();
    let output = run(folder, &arguments, code);
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    let counts = ["written", "failed"].map(|what| summary[what].as_array().unwrap().len());
    (counts, stderr(&output))
}

#[test]
fn a_fifo_and_a_device_in_a_list_do_not_affect_other_cases() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    random_model(&at("model"), &[]);
    write(&at("good.nii"));
    fifo(&at("fifo.nii"));
    fs::write(at("list.txt"), "fifo.nii\n/dev/zero\ngood.nii\n").unwrap();
    let (counts, log) = predicted(folder.path(), &["@list.txt"], 3);
    assert_eq!(counts, [1, 2], "{log}");
    for (path, kind) in [("fifo.nii", "FIFO"), ("/dev/zero", "device")] {
        let problem = format!("{path}: cannot open: is a {kind}; expected a regular file");
        assert!(log.contains(&problem), "{log}");
    }
}

#[test]
fn a_fifo_or_a_huge_file_in_place_of_a_sidecar_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    random_model(&at("model"), &[]);
    write(&at("in/v.nii"));
    fifo(&at("in/v.json"));
    let (counts, log) = predicted(folder.path(), &["in"], 0);
    assert_eq!(counts, [1, 0], "{log}");
    fs::remove_file(at("in/v.json")).unwrap();
    // A sparse file, larger than memory.
    let huge = fs::File::create(at("in/v.json")).unwrap();
    huge.set_len(64 << 30).unwrap();
    let (counts, log) = predicted(folder.path(), &["in", "--overwrite"], 0);
    assert_eq!(counts, [1, 0], "{log}");
}

#[test]
fn links_are_not_followed_out_of_the_output_folder() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    random_model(&at("model"), &[]);
    write(&at("in/v.nii"));
    write(&at("in/w.nii"));
    fs::create_dir_all(at("out")).unwrap();
    fs::create_dir_all(at("outside")).unwrap();
    fs::write(at("outside/liver.nii.gz"), "precious").unwrap();
    symlink(at("outside"), at("out/v")).unwrap();
    let untouched = || {
        let entries: Vec<_> = at("outside").read_dir().unwrap().collect();
        let text = fs::read_to_string(at("outside/liver.nii.gz")).unwrap();
        assert_eq!((entries.len(), text.as_str()), (1, "precious"));
    };
    for more in [&["in", "--split"][..], &["in", "--split", "--overwrite"]] {
        let (counts, log) = predicted(folder.path(), more, 3);
        assert_eq!(counts[1], 1, "{log}");
        assert!(log.contains("out/v: is a link to a path outside"), "{log}");
        untouched();
    }
    assert!(at("out/w/liver.nii.gz").exists() && !at("out/v.nii").exists());
    // A sidecar with false entries about files of an earlier run.
    let started =
        r#"{"state":"writing","input":"v","ctseg_version":"0","files":["v.nii","v/liver.nii.gz"]}"#;
    fs::write(at("out/v.json"), started).unwrap();
    let (counts, log) = predicted(folder.path(), &["in"], 0);
    assert_eq!(counts[1], 0, "{log}");
    assert!(at("out/v.nii").exists());
    untouched();
}

#[test]
fn names_cannot_forge_log_lines_or_formulas() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    random_model(&at("model"), &[]);
    for name in ["=cmd()", "-1", "e\u{1b}[2Jsc"] {
        write(&at(&format!("in/{name}.nii")));
    }
    fs::write(at("in/a\nerror: forged line.nii"), "no volume").unwrap();
    let arguments = ["predict", "in", "-o", "o\nut", "--statistics"];
    let output = run(folder.path(), &arguments, 3);
    let (log, shown) = (stderr(&output), String::from_utf8(output.stdout).unwrap());
    assert!(log.contains(r"in/a\nerror: forged line.nii: "), "{log}");
    for text in [log, shown] {
        assert!(!text.contains('\u{1b}'), "{text}");
        let mut lines = text.lines();
        assert!(!lines.any(|line| line.starts_with("error: forged") || line.starts_with("ut")));
    }
    let table = fs::read_to_string(at("o\nut/statistics.csv")).unwrap();
    for case in ["'=cmd()", "'-1", "e\u{1b}[2Jsc"] {
        let starts = |line: &str| line.starts_with(&format!("{case},liver,1,"));
        assert!(table.lines().any(starts), "{case} in {table}");
    }
}
