//! Predictions, references and images whose grids nearly agree, or differ in orientation.

use std::path::Path;

use crate::common::{run, stderr};
use ctseg_core::dataset::{Dataset, LabelSource};
use ctseg_image::nifti::{NiftiHeader, VoxelType, read_labels, write_labels, write_volume};
use ctseg_image::space::{Grid, LabelMap, Orientation, Reorientation, Volume};
use ndarray::Array3;
use serde_json::Value;

fn write_map(path: &Path, labels: &LabelMap) {
    write_labels(path, labels, &NiftiHeader::for_grid(&labels.grid).unwrap()).unwrap();
}

/// Two boxes that touch, on an anisotropic grid.
fn labels() -> LabelMap {
    let grid = Grid::with_spacing([9, 8, 7], [0.8, 0.9, 2.5]);
    let data = Array3::from_shape_fn(grid.shape_zyx(), |(z, y, x)| match (x, y, z) {
        (2..5, 1..6, 2..6) => 1,
        (5..8, 2..7, 1..4) => 2,
        _ => 0,
    });
    LabelMap { grid, data }
}

fn reoriented(labels: &LabelMap, orientation: &str) -> LabelMap {
    let reorientation = Reorientation::between(Orientation::RAS, orientation.parse().unwrap());
    LabelMap {
        grid: labels.grid.reoriented_by(&reorientation),
        data: reorientation.apply(labels.data.clone()),
    }
}

fn moved(labels: &LabelMap, voxels: f64) -> LabelMap {
    let mut moved = labels.clone();
    moved.grid.affine[1][3] += 0.9 * voxels;
    moved
}

#[test]
fn predictions_in_other_orientations_score_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let reference = labels();
    write_map(&at("ref/a.nii.gz"), &reference);
    let mut prediction = reference.clone();
    prediction.data.swap([3, 3, 3], [0, 0, 0]);
    let figures = |name: &str| -> Value {
        let table = std::fs::read_to_string(at(name).join("metrics.csv")).unwrap();
        let lines = table.lines().map(|line| {
            let cells = line.split(',').map(|cell| match cell.parse::<f64>() {
                Ok(number) => format!("{number:.5}"),
                Err(_) => cell.to_owned(),
            });
            cells.collect::<Vec<_>>()
        });
        serde_json::to_value(lines.collect::<Vec<_>>()).unwrap()
    };
    for orientation in ["RAS", "LPS", "SAR", "PIL"] {
        let folder_of = format!("{orientation}/a.nii.gz");
        write_map(&at(&folder_of), &reoriented(&prediction, orientation));
        let arguments = [
            "evaluate",
            orientation,
            "ref",
            "-o",
            &format!("out_{orientation}"),
        ];
        let log = stderr(&run(folder.path(), &arguments, 0));
        assert!(!log.contains("warning"), "{log}");
        assert_eq!(
            figures(&format!("out_{orientation}")),
            figures("out_RAS"),
            "{orientation}"
        );
    }
}

#[test]
fn evaluate_compares_grids_by_the_farthest_corner() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_map(&at("ref/a.nii.gz"), &labels());
    let evaluate = |voxels: f64, more: &[&str], code: i32| {
        write_map(&at("pred/a.nii.gz"), &moved(&labels(), voxels));
        let arguments = [&["evaluate", "pred", "ref", "-o", "out"], more].concat();
        stderr(&run(folder.path(), &arguments, code))
    };
    assert!(!evaluate(0.009, &[], 0).contains("off its reference"));
    let note = evaluate(0.09, &[], 0);
    assert!(
        note.contains("0.09 voxels (0.081 mm) off its reference"),
        "{note}"
    );
    assert!(!note.contains("warning"), "{note}");
    let warning = evaluate(0.4, &[], 0);
    assert!(
        warning.contains("warning") && warning.contains("0.40 voxels"),
        "{warning}"
    );
    let refused = evaluate(0.6, &[], 1);
    assert!(
        refused.contains(
            "the labels differ in position, by up to 0.540 mm, 0.60 voxels, from their reference"
        ),
        "{refused}"
    );
    assert!(evaluate(0.6, &["--grid-tolerance", "0.7"], 0).contains("0.60 voxels"));
    assert!(evaluate(0.09, &["--grid-tolerance", "0.05"], 1).contains("more than 0.05 voxels"));
    let wrong = evaluate(0.0, &["--grid-tolerance=-1"], 2);
    assert!(
        wrong.contains("expected a number of voxels of at least 0"),
        "{wrong}"
    );
}

#[test]
fn labels_in_other_orientations_are_converted_to_the_image_grid() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let expected = labels();
    let image = Volume {
        grid: expected.grid,
        data: expected.data.mapv(|label| 50.0 * f32::from(label)),
    };
    write_volume(&at("data/images/a.nii.gz"), &image, VoxelType::I16).unwrap();
    write_map(&at("data/labels/a.nii.gz"), &reoriented(&expected, "LIP"));
    let arguments = ["convert", "data", "--to", "nnunet", "-o", "raw"];
    let log = stderr(&run(folder.path(), &arguments, 0));
    // An image of 0, 50 and 100 is not CT.
    assert!(
        log.contains("does not look like CT in Hounsfield units"),
        "{log}"
    );
    let converted = Dataset::open(&at("raw/Dataset500_data")).unwrap();
    let LabelSource::Map(path) = &converted.cases[0].labels else {
        panic!("not a label map");
    };
    // The header rounds to 32 bits.
    let found = read_labels(path).unwrap().1;
    assert!(found.grid.same_as(&expected.grid, 1e-5));
    assert_eq!(found.data, expected.data);
}
