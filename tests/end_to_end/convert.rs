//! `ctseg convert`: converted datasets are compared with their sources by our reader and by nibabel.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::common::batches::json;
use crate::common::{run, run_json, stderr};
use ctseg_core::dataset::{CheckDepth, Dataset, LabelSource};
use ctseg_image::nifti::{
    NiftiHeader, VoxelType, read_labels, read_volume, write_labels, write_volume,
};
use ctseg_image::space::{Grid, LabelMap, Volume};
use ndarray::Array3;
use serde_json::{Value, json};

mod bad;
mod channels;
mod folders;
mod folds;
mod itk;
mod real;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/check_convert.py");

/// Runs `ctseg convert` with the words of `line`.
fn convert(folder: &Path, line: &str, code: i32) -> Output {
    let words: Vec<&str> = line.split(' ').collect();
    run(folder, &[&["convert"], &words[..]].concat(), code)
}

fn grid() -> Grid {
    Grid::with_spacing([5, 4, 3], [1.0, 1.5, 2.0])
}

fn write_image_on(path: &Path, grid: Grid, value: f32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut data = Array3::from_elem(grid.shape_zyx(), value);
    data[[0, 0, 1]] = value + 1.0;
    write_volume(path, &Volume { grid, data }, VoxelType::I16).unwrap();
}

/// Writes a label map whose first voxels (x fastest) have the given values.
fn write_map_on(path: &Path, grid: Grid, first: &[u16]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut labels = LabelMap::empty(grid);
    for (voxel, value) in labels.data.iter_mut().zip(first) {
        *voxel = *value;
    }
    write_labels(path, &labels, &NiftiHeader::for_grid(&grid).unwrap()).unwrap();
}

/// Writes `images/` and `labels/` in `root`: case names with the values of their first voxels.
fn write_dataset(root: &Path, cases: &[(&str, &[u16])]) {
    for (number, (name, labels)) in cases.iter().enumerate() {
        write_image_on(
            &root.join(format!("images/{name}.nii.gz")),
            grid(),
            10.0 * number as f32,
        );
        write_map_on(&root.join(format!("labels/{name}.nii.gz")), grid(), labels);
    }
}

fn assert_same_volume(a: &Volume, b: &Volume, what: &str) {
    assert_eq!(a.grid, b.grid, "{what}");
    assert!(a.data == b.data, "{what}: voxels differ");
}

/// Names in a folder, sorted; empty if there is no folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Every file below `folder` with its content and modification time.
fn content(folder: &Path) -> Vec<(PathBuf, Vec<u8>, std::time::SystemTime)> {
    let mut found = Vec::new();
    for name in names(folder) {
        let path = folder.join(name);
        if path.is_dir() {
            found.extend(content(&path));
        } else {
            let modified = path.metadata().unwrap().modified().unwrap();
            found.push((path.clone(), fs::read(&path).unwrap(), modified));
        }
    }
    found
}

/// The data folder; `None`, with a printed line, if CTSEG_TEST_DATA is not set.
fn data() -> Option<PathBuf> {
    let data = std::env::var_os("CTSEG_TEST_DATA").map(PathBuf::from);
    if data.is_none() {
        println!("skipped: no real CT (CTSEG_TEST_DATA)");
    }
    data
}

/// A command that runs the script; `None`, with a printed line, if the variable names no interpreter.
fn script(variable: &str) -> Option<Command> {
    let Some(python) = std::env::var_os(variable) else {
        println!("skipped: {variable} is not set");
        return None;
    };
    let mut command = Command::new(python);
    command.arg(SCRIPT);
    Some(command)
}

/// Fails unless nnU-Net accepts the dataset.
fn nnunet_accepts(folder: &Path) {
    check_with_nnunet("verify", folder);
}

/// Runs a check of the script that needs nnU-Net.
fn check_with_nnunet(check: &str, folder: &Path) {
    let Some(mut command) = script("CTSEG_TEST_NNUNET") else {
        return;
    };
    let output = command.arg(check).arg(folder).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && printed.contains("nnU-Net accepts it"),
        "{printed}\n{}",
        stderr(&output)
    );
}

/// Fails unless nibabel finds equal sources and targets: (kind, sources, targets, values).
fn compare(pairs: &[(&str, Vec<PathBuf>, Vec<PathBuf>, Value)]) {
    let Some(mut command) = script("CTSEG_TEST_PYTHON") else {
        return;
    };
    let mut child = command
        .arg("pairs")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    for (kind, source, target, values) in pairs {
        let line = json!({"kind": kind, "source": source, "target": target, "values": values});
        writeln!(input, "{line}").unwrap();
    }
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(printed.trim(), format!("{} pairs", pairs.len()));
}

/// Runs a conversion that must fail with one error; returns stderr.
fn refused(folder: &Path, arguments: &[&str], code: i32) -> String {
    let output = run(folder, &[&["convert"], arguments].concat(), code);
    let log = stderr(&output);
    assert_eq!(
        log.lines().filter(|line| line.starts_with("error")).count(),
        1,
        "{log}"
    );
    log
}
