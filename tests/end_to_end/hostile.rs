//! Hostile files and names: made to block a command, crash it, or be taken for something else.

use std::fs;
use std::path::Path;

use rustix::fs::{CWD, Mode, mkfifoat};

use crate::common::{run, stderr};
use ctseg_image::nifti::{LabelNames, NiftiHeader, write_named_labels};
use ctseg_image::space::{Grid, LabelMap};

/// Writes a label map whose label has this name.
fn write_named(path: &Path, name: &str) {
    let grid = Grid::with_spacing([4, 1, 1], [2.0, 5.0, 10.0]);
    let data = ndarray::Array3::from_shape_vec((1, 1, 4), vec![1, 1, 0, 0]).unwrap();
    let header = NiftiHeader::for_grid(&grid).unwrap();
    let names = LabelNames::from([(1, name.to_owned())]);
    write_named_labels(path, &LabelMap { grid, data }, &header, &names).unwrap();
}

/// FIFOs in place of files that a command reads.
const FIFOS: [&str; 9] = [
    "x.nii",
    "x.npy",
    "x.pth",
    "x.safetensors",
    "x.toml",
    "model/SHA256SUMS",
    "run/recipe.toml",
    "decathlon/dataset.json",
    "own/dataset.toml",
];

#[test]
fn no_command_waits_for_a_fifo() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for name in FIFOS {
        fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
        mkfifoat(CWD, folder.join(name), Mode::RUSR | Mode::WUSR).unwrap();
    }
    fs::write(folder.join("model/model.toml"), "").unwrap();
    fs::write(folder.join("run/run.toml"), "").unwrap();
    for what in [
        "x.nii",
        "x.npy",
        "x.pth",
        "x.safetensors",
        "x.toml",
        "model",
        "run",
    ] {
        let log = stderr(&run(folder, &["inspect", what], 1));
        let expected = "is a FIFO; expected a regular file";
        assert!(log.contains(expected), "{what}: {log}");
    }
    run(folder, &["inspect", "decathlon"], 1);
    run(folder, &["inspect", "own"], 1);
    let log = stderr(&run(folder, &["status", "--config", "x.toml"], 1));
    assert!(log.contains("x.toml: cannot read: is a FIFO"), "{log}");
}

#[test]
fn a_label_name_of_any_length_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let name = "x".repeat(70_000);
    write_named(&folder.path().join("a.nii.gz"), &name);
    let output = run(folder.path(), &["inspect", "a.nii.gz"], 0);
    assert!(String::from_utf8(output.stdout).unwrap().contains(&name));
}

#[test]
fn names_in_tables_are_not_formulas() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for kind in ["pred", "ref"] {
        write_named(&at(&format!("{kind}/=cmd().nii.gz")), "liver");
        write_named(&at(&format!("{kind}/b.nii.gz")), "liver");
    }
    run(folder.path(), &["evaluate", "pred", "ref", "-o", "out"], 0);
    let read = |name: &str| fs::read_to_string(at(name)).unwrap();
    let metrics = read("out/metrics.csv");
    for row in ["\n'=cmd(),structure_1,1,", "\nb,structure_1,1,"] {
        assert!(metrics.contains(row), "{metrics}");
    }
}
