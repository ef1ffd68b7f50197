//! Datasets of small CTs, each with a body and up to two blobs; no two images are alike.

#![allow(dead_code)] // each test file uses its own part

use std::path::{Path, PathBuf};

use ctseg_image::nifti::{NiftiHeader, VoxelType, write_labels, write_volume};
use ctseg_image::space::{Grid, LabelMap, Volume};
use ndarray::Array3;

/// A grid of 24 × 24 × 12 voxels of 8 mm.
pub fn grid() -> Grid {
    Grid::with_spacing([24, 24, 12], [8.0; 3])
}

/// A case: image in HU, and labels with the blobs of `structures` (1, 2).
pub fn case(number: usize, structures: &[u16]) -> (Volume, LabelMap) {
    let grid = grid();
    let mut labels = LabelMap::empty(grid);
    let shift = number as f64 % 4.0 / 2.0;
    let within = |x: f64, y: f64, z: f64, centre: [f64; 3], radius: f64| {
        let squares = [x - centre[0], y - centre[1], z - centre[2]].map(|d| d * d);
        squares.iter().sum::<f64>() < radius * radius
    };
    let data = Array3::from_shape_fn(grid.shape_zyx(), |(z, y, x)| {
        let [fx, fy, fz] = [x as f64, y as f64, z as f64];
        let texture = ((x * 7 + y * 13 + z * 29 + number * 5) % 11) as f32;
        for (value, centre, hu) in [
            (1, [7.0 + shift, 12.0, 6.0], 150.0),
            (2, [16.0, 11.0 + shift, 6.0], -80.0),
        ] {
            if structures.contains(&value) && within(fx, fy, fz, centre, 3.5) {
                labels.data[[z, y, x]] = value;
                return hu + texture;
            }
        }
        match within(fx, fy, 6.0, [12.0, 12.0, 6.0], 10.0) {
            true => 40.0 + texture,
            false => -1000.0,
        }
    });
    (Volume { grid, data }, labels)
}

/// Writes the case `number` as `images/NAME.nii.gz` and `labels/NAME.nii.gz` below `root`.
pub fn write_case(root: &Path, name: &str, number: usize, structures: &[u16]) {
    let (image, labels) = case(number, structures);
    for folder in ["images", "labels"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    let file = |folder: &str| root.join(folder).join(format!("{name}.nii.gz"));
    write_volume(&file("images"), &image, VoxelType::I16).unwrap();
    let header = NiftiHeader::for_grid(&grid()).unwrap();
    write_labels(&file("labels"), &labels, &header).unwrap();
}

/// Writes a dataset with the structures a (1) and b (2), and the cases c0, c1, … with the structures in `cases`;
/// returns its descriptor.
pub fn dataset(root: &Path, cases: &[&[u16]]) -> PathBuf {
    for (number, structures) in cases.iter().enumerate() {
        write_case(root, &format!("c{number}"), number, structures);
    }
    let descriptor = root.join("dataset.toml");
    let text = "name = \"tiny\"\nimages = \"images/*.nii.gz\"\nlabels = \"labels/{case}.nii.gz\"\n[structures]\na = 1\nb = 2\n";
    std::fs::write(&descriptor, text).unwrap();
    descriptor
}
