//! Batches of small volumes, and their files on disk.

#![allow(dead_code)] // each test file uses its own part

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use ctseg_image::nifti::{VoxelType, write_volume};
use ctseg_image::space::{Grid, Volume};
use ndarray::Array3;
use serde_json::Value;

use super::random_model;

/// A JSON file.
pub fn json(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

/// A ball of soft tissue in air, at a place that depends on `index`.
pub fn ball(index: usize, grid: Grid) -> Volume {
    let centre = [7.0 + (index % 5) as f64, 8.0 + (index % 3) as f64, 8.0];
    let data = Array3::from_shape_fn(grid.shape_zyx(), |(z, y, x)| {
        let squares = [x, y, z].into_iter().zip(centre);
        let distance = squares.map(|(at, centre)| (at as f64 - centre).powi(2));
        match distance.sum::<f64>().sqrt() {
            inside if inside < 5.5 => 40.0 + (index * 7 % 60) as f32,
            _ => -1000.0,
        }
    });
    Volume { grid, data }
}

/// The grid of most volumes.
pub fn small_grid() -> Grid {
    Grid::with_spacing([18, 20, 16], [6.0, 6.0, 6.0])
}

/// `count` small volumes in `folder/images`, and a model.
pub fn batch(folder: &Path, count: usize) {
    for index in 0..count {
        let path = folder.join(format!("images/case_{index:02}.nii.gz"));
        write_volume(&path, &ball(index, small_grid()), VoxelType::I16).unwrap();
    }
    random_model(&folder.join("model"), &[]);
}

/// Names of the files in `folder` that end with `ending`.
pub fn files(folder: &Path, ending: &str) -> BTreeSet<String> {
    let Ok(entries) = folder.read_dir() else {
        return BTreeSet::new();
    };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names
        .filter(|name| name.ends_with(ending) && !name.starts_with(".ctseg-"))
        .collect()
}

/// The number of temporary files in `folder`.
pub fn temp_files(folder: &Path) -> usize {
    let entries = folder.read_dir().unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(".ctseg-")).count()
}

/// Sidecars of finished cases by name, as bytes: a repeated case has other `seconds`.
pub fn sidecars(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = files(folder, ".json").into_iter();
    let cases = names.filter(|name| name.starts_with("case_"));
    cases
        .map(|name| (name.clone(), std::fs::read(folder.join(name)).unwrap()))
        .filter(|(_, bytes)| serde_json::from_slice::<Value>(bytes).unwrap()["state"] == "done")
        .collect()
}

/// A sidecar without fields that differ between runs.
pub fn without_times(bytes: &[u8]) -> Value {
    let mut sidecar: Value = serde_json::from_slice(bytes).unwrap();
    for name in ["seconds", "peak_memory_mb"] {
        sidecar.as_object_mut().unwrap().remove(name).unwrap();
    }
    sidecar["cascade"]
        .as_object_mut()
        .unwrap()
        .remove("seconds")
        .unwrap();
    sidecar
}

/// Fails unless label maps are identical to the byte, and sidecars except for times.
pub fn assert_same_results(one: &Path, other: &Path) {
    let maps = files(one, ".nii.gz");
    assert_eq!(maps, files(other, ".nii.gz"));
    for name in maps {
        let same =
            std::fs::read(one.join(&name)).unwrap() == std::fs::read(other.join(&name)).unwrap();
        assert!(same, "{name} differs");
    }
    let (one, other) = (sidecars(one), sidecars(other));
    assert_eq!(
        one.keys().collect::<Vec<_>>(),
        other.keys().collect::<Vec<_>>()
    );
    for (name, bytes) in &one {
        assert_eq!(without_times(bytes), without_times(&other[name]), "{name}");
    }
}

/// Fails unless the sidecars of `before` are unchanged, to the byte.
pub fn assert_kept(before: &BTreeMap<String, Vec<u8>>, folder: &Path) {
    let after = sidecars(folder);
    for (name, bytes) in before {
        assert_eq!(after.get(name), Some(bytes), "{name} was predicted again");
    }
}

/// Waits until `enough` or until the process ends.
pub fn wait_until(child: &mut Child, enough: impl Fn() -> bool) {
    while !enough() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
}
