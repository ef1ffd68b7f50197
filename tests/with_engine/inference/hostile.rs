//! Batches with files that would be waited for, that have no end, that lead elsewhere, or whose names are meant to be
//! read as something else: each costs itself alone. The model has random weights.

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

/// How many cases were written and failed, and what was said about them.
fn predicted(folder: &Path, arguments: &[&str], code: i32) -> ([usize; 2], String) {
    let arguments = [&["predict", "-o", "out", "--json"], arguments].concat();
    let output = run(folder, &arguments, code);
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    let counts = ["written", "failed"].map(|what| summary[what].as_array().unwrap().len());
    (counts, stderr(&output))
}

#[test]
fn a_fifo_and_a_device_in_a_list_cost_themselves_alone() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    random_model(&at("model"), &[]);
    write(&at("good.nii"));
    fifo(&at("fifo.nii"));
    fs::write(at("list.txt"), "fifo.nii\n/dev/zero\ngood.nii\n").unwrap();
    let (counts, said) = predicted(folder.path(), &["@list.txt"], 3);
    assert_eq!(counts, [1, 2], "{said}");
    for (path, kind) in [("fifo.nii", "FIFO"), ("/dev/zero", "device")] {
        let problem = format!("{path}: cannot read: is a {kind}; expected a regular file");
        assert!(said.contains(&problem), "{said}");
    }
}

#[test]
fn what_lies_in_the_place_of_a_sidecar_is_neither_waited_for_nor_read_whole() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    random_model(&at("model"), &[]);
    write(&at("in/v.nii"));
    fifo(&at("in/v.json"));
    let (counts, said) = predicted(folder.path(), &["in"], 0);
    assert_eq!(counts, [1, 0], "{said}");
    fs::remove_file(at("in/v.json")).unwrap();
    // More than is in memory at any time; it takes no space on disk.
    let huge = fs::File::create(at("in/v.json")).unwrap();
    huge.set_len(64 << 30).unwrap();
    let (counts, said) = predicted(folder.path(), &["in", "--overwrite"], 0);
    assert_eq!(counts, [1, 0], "{said}");
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
        let (counts, said) = predicted(folder.path(), more, 3);
        assert_eq!(counts[1], 1, "{said}");
        assert!(said.contains("out/v: is a link that leads out"), "{said}");
        untouched();
    }
    assert!(at("out/w/liver.nii.gz").exists() && !at("out/v.nii").exists());
    // A sidecar that lies about what an earlier run left behind.
    let begun =
        r#"{"state":"writing","input":"v","ctseg_version":"0","files":["v.nii","v/liver.nii.gz"]}"#;
    fs::write(at("out/v.json"), begun).unwrap();
    let (counts, said) = predicted(folder.path(), &["in"], 0);
    assert_eq!(counts[1], 0, "{said}");
    assert!(at("out/v.nii").exists());
    untouched();
}

#[test]
fn names_forge_no_lines_and_no_formulas() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    random_model(&at("model"), &[]);
    for name in ["=cmd()", "-1", "e\u{1b}[2Jsc"] {
        write(&at(&format!("in/{name}.nii")));
    }
    fs::write(at("in/a\nerror: forged line.nii"), "no volume").unwrap();
    let arguments = ["predict", "in", "-o", "o\nut", "--statistics"];
    let output = run(folder.path(), &arguments, 3);
    let (said, shown) = (stderr(&output), String::from_utf8(output.stdout).unwrap());
    assert!(said.contains(r"in/a\nerror: forged line.nii: "), "{said}");
    for text in [said, shown] {
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
