//! Labels with a grid close to that of their image, or with another axis order.

use super::*;
use ctseg_core::dataset::Reading;
use ctseg_image::space::{Orientation, Reorientation};

/// A dataset of one case, with labels shifted by `voxels` voxels along z.
fn moved(root: &Path, voxels: f64) -> Dataset {
    plain(root, &[&[1]]);
    let mut moved = grid();
    moved.affine[2][3] += 2.0 * voxels;
    write_map_on(&root.join("labels/c0.nii.gz"), moved, &[1]);
    Dataset::open(root).unwrap()
}

#[test]
fn the_shift_decides_between_nothing_note_warning_and_error() {
    for (voxels, expected) in [
        (0.009, None),
        (0.09, Some((false, "0.09 voxels (0.180 mm) off its image"))),
        (0.4, Some((true, "0.40 voxels (0.800 mm) off its image"))),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let dataset = moved(folder.path(), voxels);
        let notes = check(&dataset).into_result().unwrap();
        let found = notes
            .first()
            .map(|note| (note.is_warning, note.note.as_str()));
        match (found, expected) {
            (None, None) => {}
            (Some((is_warning, text)), Some((expected, part))) => {
                assert_eq!(is_warning, expected, "{text}");
                assert!(
                    text.contains(part) && text.contains("labels/c0.nii.gz"),
                    "{text}"
                );
            }
            other => panic!("{voxels}: {other:?}"),
        }
        assert_eq!(dataset.load(&dataset.cases[0]).unwrap().labels.grid, grid());
    }
    let folder = tempfile::tempdir().unwrap();
    let far = moved(folder.path(), 0.6);
    assert!(problems(&check(&far))[0].contains("more than 0.5 voxels with --grid-tolerance"));
    assert!(far.load(&far.cases[0]).is_err());
    let reading = Reading {
        grid_tolerance: "0.7".parse().unwrap(),
        ..Reading::default()
    };
    let far = far.read_as(reading).unwrap();
    let notes = check(&far).into_result().unwrap();
    assert!(
        notes[0].is_warning && notes[0].note.contains("0.60 voxels"),
        "{notes:?}"
    );
    assert!(far.load(&far.cases[0]).is_ok());
}

#[test]
fn labels_with_another_axis_order_are_reoriented() {
    let values: Vec<u16> = (0..24).map(|at| at % 5).collect();
    for (number, reorientation) in Reorientation::all().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        plain(folder.path(), &[&values]);
        let path = folder.path().join("labels/c0.nii.gz");
        let straight = Dataset::open(folder.path()).unwrap();
        let expected = straight.load(&straight.cases[0]).unwrap().labels;
        let turned = LabelMap {
            grid: expected.grid.reoriented_by(&reorientation),
            data: reorientation.apply(expected.data.clone()),
        };
        write_labels(
            &path,
            &turned,
            &NiftiHeader::for_grid(&turned.grid).unwrap(),
        )
        .unwrap();
        let dataset = Dataset::open(folder.path()).unwrap();
        let notes = check(&dataset).into_result().unwrap();
        assert!(notes.is_empty(), "{number}: {notes:?}");
        assert_eq!(
            dataset.load(&dataset.cases[0]).unwrap().labels,
            expected,
            "{number}"
        );
    }
}

#[test]
fn masks_with_another_axis_order_are_merged() {
    let folder = tempfile::tempdir().unwrap();
    let case = folder.path().join("s1");
    write_image(&case.join("ct.nii.gz"));
    write_map(&case.join("segmentations/a.nii.gz"), &[1, 0, 0, 1]);
    let reorientation = Reorientation::between(Orientation::RAS, "PSL".parse().unwrap());
    let mut mask = LabelMap::empty(grid());
    mask.data[[1, 2, 3]] = 1;
    let mask = LabelMap {
        grid: mask.grid.reoriented_by(&reorientation),
        data: reorientation.apply(mask.data),
    };
    let path = case.join("segmentations/b.nii.gz");
    write_labels(&path, &mask, &NiftiHeader::for_grid(&mask.grid).unwrap()).unwrap();
    let dataset = Dataset::open(folder.path()).unwrap();
    assert!(check(&dataset).problems.is_empty());
    let labels = dataset.load(&dataset.cases[0]).unwrap().labels.data;
    let marked: Vec<((usize, usize, usize), u16)> = labels
        .indexed_iter()
        .filter(|(_, label)| **label > 0)
        .map(|(at, label)| (at, *label))
        .collect();
    assert_eq!(marked, [((0, 0, 0), 1), ((0, 0, 3), 1), ((1, 2, 3), 2)]);
}

#[test]
fn hounsfield_units_are_checked_for_ct_only() {
    for (channel, is_ct) in [("CT", true), ("ct", true), ("MRI", false)] {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        write_image(&root.join("imagesTr/c0_0000.nii.gz"));
        write_map(&root.join("labelsTr/c0.nii.gz"), &[1]);
        write_text(
            &root.join("dataset.json"),
            &format!(
                r#"{{"channel_names": {{"0": "{channel}"}}, "labels": {{"background": 0, "a": 1}}, "numTraining": 1, "file_ending": ".nii.gz"}}"#
            ),
        );
        let dataset = Dataset::open(root).unwrap();
        assert_eq!(dataset.is_ct(), is_ct, "{channel}");
        // Values of 40 and 41 fit into bytes.
        let notes = notes(&dataset.check(CheckDepth::Voxels, |_, _| {}));
        let has_warning = notes
            .iter()
            .any(|note| note.contains("as in an 8-bit image"));
        assert_eq!(has_warning, is_ct, "{notes:?}");
        let rescaled = dataset.read_as(Reading {
            rescale_hu: Some("-1024,2".parse().unwrap()),
            ..Reading::default()
        });
        match rescaled {
            Ok(dataset) => {
                let image = dataset.load_image(&dataset.cases[0]).unwrap();
                assert!(is_ct && image.volume.data[[0, 0, 1]] == -944.0);
                assert_eq!(
                    image.header.warnings,
                    ["converted to HU: value × 2 + -1024"]
                );
            }
            Err(error) => assert!(!is_ct && error.to_string().contains("'MRI'"), "{error}"),
        }
    }
}
