//! Predictions, references and images whose grids nearly agree, or agree along other axes.

use std::path::Path;

use crate::common::{run, stderr};
use ctseg_core::dataset::{Dataset, LabelSource};
use ctseg_image::nifti::{NiftiHeader, VoxelType, read_labels, write_labels, write_volume};
use ctseg_image::space::{Grid, LabelMap, Orientation, Reorientation, Volume};
use ndarray::Array3;
use serde_json::Value;

fn write(path: &Path, labels: &LabelMap) {
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

fn turned(labels: &LabelMap, orientation: &str) -> LabelMap {
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
fn predictions_along_other_axes_are_measured_alike() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let reference = labels();
    write(&at("ref/a.nii.gz"), &reference);
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
        write(&at(&folder_of), &turned(&prediction, orientation));
        let arguments = [
            "evaluate",
            orientation,
            "ref",
            "-o",
            &format!("out_{orientation}"),
        ];
        let said = stderr(&run(folder.path(), &arguments, 0));
        assert!(!said.contains("warning"), "{said}");
        assert_eq!(
            figures(&format!("out_{orientation}")),
            figures("out_RAS"),
            "{orientation}"
        );
    }
}

#[test]
fn one_rule_by_the_farthest_corner_holds_for_evaluate() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write(&at("ref/a.nii.gz"), &labels());
    let said = |voxels: f64, more: &[&str], code: i32| {
        write(&at("pred/a.nii.gz"), &moved(&labels(), voxels));
        let arguments = [&["evaluate", "pred", "ref", "-o", "out"], more].concat();
        stderr(&run(folder.path(), &arguments, code))
    };
    assert!(!said(0.009, &[], 0).contains("off its reference"));
    let note = said(0.09, &[], 0);
    assert!(
        note.contains("0.09 voxels (0.081 mm) off its reference"),
        "{note}"
    );
    assert!(!note.contains("warning"), "{note}");
    let warning = said(0.4, &[], 0);
    assert!(
        warning.contains("warning") && warning.contains("0.40 voxels"),
        "{warning}"
    );
    let refused = said(0.6, &[], 1);
    assert!(
        refused.contains(
            "the labels differ in position, by up to 0.540 mm, 0.60 voxels, from their reference"
        ),
        "{refused}"
    );
    assert!(said(0.6, &["--grid-tolerance", "0.7"], 0).contains("0.60 voxels"));
    assert!(said(0.09, &["--grid-tolerance", "0.05"], 1).contains("more than 0.05 voxels"));
    let wrong = said(0.0, &["--grid-tolerance=-1"], 2);
    assert!(
        wrong.contains("expected a number of voxels from 0"),
        "{wrong}"
    );
}

#[test]
fn labels_along_other_axes_are_converted_onto_their_image() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let expected = labels();
    let image = Volume {
        grid: expected.grid,
        data: expected.data.mapv(|label| 50.0 * f32::from(label)),
    };
    write_volume(&at("data/images/a.nii.gz"), &image, VoxelType::I16).unwrap();
    write(&at("data/labels/a.nii.gz"), &turned(&expected, "LIP"));
    let arguments = ["convert", "data", "--to", "nnunet", "-o", "raw"];
    let said = stderr(&run(folder.path(), &arguments, 0));
    // An image of 0, 50 and 100 is no CT.
    assert!(
        said.contains("does not look like CT in Hounsfield units"),
        "{said}"
    );
    let converted = Dataset::open(&at("raw/Dataset500_data")).unwrap();
    let LabelSource::Map(path) = &converted.cases[0].labels else {
        panic!("a label map");
    };
    // The header rounds to 32 bits.
    let found = read_labels(path).unwrap().1;
    assert!(found.grid.same_as(&expected.grid, 1e-5));
    assert_eq!(found.data, expected.data);
}
