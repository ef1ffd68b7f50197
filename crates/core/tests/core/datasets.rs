//! Datasets in every layout, their checks, and the case cache.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use ndarray::Array3;

use ctseg_core::dataset::content::DatasetContent;
use ctseg_core::dataset::{
    CaseCache, CheckDepth, CheckReport, Dataset, LabelSource, Layout, folds,
};
use ctseg_image::nifti::{NiftiHeader, VoxelType, write_labels, write_volume};
use ctseg_image::space::{Grid, LabelMap, Volume};

mod cache;
mod checking;
mod descriptors;
mod grids;
mod layouts;
mod names;
mod shipped;
mod splits;

const SHAPE: [usize; 3] = [4, 3, 2];

fn grid() -> Grid {
    Grid::with_spacing(SHAPE, [1.0, 1.5, 2.0])
}

fn write_image_on(path: &Path, grid: Grid, value: f32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut data = Array3::from_elem(grid.shape_zyx(), value);
    data[[0, 0, 0]] = value + 1.0;
    write_volume(path, &Volume { grid, data }, VoxelType::F32).unwrap();
}

fn write_image(path: &Path) {
    write_image_on(path, grid(), 40.0);
}

/// A label map whose first voxels (x fastest) have the given values.
fn write_map_on(path: &Path, grid: Grid, first: &[u16]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut labels = LabelMap::empty(grid);
    for (voxel, value) in labels.data.iter_mut().zip(first) {
        *voxel = *value;
    }
    write_labels(path, &labels, &NiftiHeader::for_grid(&grid).unwrap()).unwrap();
}

fn write_map(path: &Path, first: &[u16]) {
    write_map_on(path, grid(), first);
}

fn write_text(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// `images/` + `labels/` with the cases `c0`, `c1`, …, each with the given label values.
fn plain(root: &Path, cases: &[&[u16]]) {
    for (number, labels) in cases.iter().enumerate() {
        write_image(&root.join(format!("images/c{number}.nii.gz")));
        write_map(&root.join(format!("labels/c{number}.nii.gz")), labels);
    }
}

fn ids(dataset: &Dataset) -> Vec<&str> {
    dataset.cases.iter().map(|case| case.id.as_str()).collect()
}

fn names(dataset: &Dataset) -> Vec<(u16, &str)> {
    dataset
        .structures
        .iter()
        .map(|s| (s.value, s.name.as_str()))
        .collect()
}

fn check(dataset: &Dataset) -> CheckReport {
    dataset.check(CheckDepth::Headers, |_, _| {})
}

fn problems(report: &CheckReport) -> Vec<String> {
    report.problems.iter().map(ToString::to_string).collect()
}

fn notes(report: &CheckReport) -> Vec<String> {
    report.notes.iter().map(ToString::to_string).collect()
}

/// The one-line error of a dataset that cannot be opened.
fn refusal(path: &Path) -> String {
    let text = Dataset::open(path).unwrap_err().to_string();
    assert!(!text.contains('\n'), "more than one line: {text}");
    assert!(
        text.contains(&path.display().to_string()),
        "does not name {}: {text}",
        path.display()
    );
    text
}
