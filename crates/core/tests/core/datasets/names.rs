//! Case names: channel numbers, names of any bytes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use ctseg_core::dataset::reference::Reference;

use super::*;

#[test]
fn the_number_of_a_single_channel_is_not_part_of_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for (image, labels) in [
        ("p1_0000", "p1"),
        ("p10_0000", "p10_0000"),
        ("v_0000", "v_0000"),
        ("v_0001", "v_0001"),
        ("x", "x"),
    ] {
        write_image(&root.join(format!("images/{image}.nii.gz")));
        write_map(&root.join(format!("labels/{labels}.nii.gz")), &[1]);
    }
    let dataset = Dataset::open(root).unwrap();
    assert_eq!(ids(&dataset), ["p1", "p10", "v_0000", "v_0001", "x"]);
    assert_eq!(problems(&check(&dataset)), [""; 0]);
    // Folds stay as in versions that included the number in the name.
    let patients = dataset.cases.iter().map(|case| case.patient.as_str());
    let patients: Vec<&str> = patients.collect();
    assert_eq!(patients, ["p1_0000", "p10_0000", "v_0000", "v_0001", "x"]);
    let reference = Reference::Dataset(dataset);
    for (name, id) in [
        ("p1", "p1"),
        ("p1_0000", "p1"),
        ("p10", "p10"),
        ("v_0000", "v_0000"),
    ] {
        assert_eq!(reference.id_of(name).as_deref(), Some(id), "{name}");
    }
    assert_eq!(reference.id_of("v"), None);
    fs::remove_file(root.join("labels/p1.nii.gz")).unwrap();
    let found = problems(&check(&Dataset::open(root).unwrap()));
    assert!(
        found.len() == 1 && found[0].contains("labels/p1_0000.nii.gz: cannot "),
        "{found:?}"
    );
}

#[test]
fn lists_of_the_decathlon_may_have_the_channel_number() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write_image(&root.join("imagesTr/p1_0000.nii.gz"));
    write_map(&root.join("labelsTr/p1.nii.gz"), &[1]);
    let json = r#"{"modality": {"0": "CT"}, "labels": {"0": "background", "1": "atrium"},
        "training": [{"image": "./imagesTr/p1_0000.nii.gz", "label": "./labelsTr/p1.nii.gz"}], "test": []}"#;
    write_text(&root.join("dataset.json"), json);
    let dataset = Dataset::open(root).unwrap();
    assert_eq!(ids(&dataset), ["p1"]);
    assert_eq!(problems(&check(&dataset)), [""; 0]);
}

#[test]
fn names_of_any_bytes_work_in_every_layout() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &[u8]| folder.path().join(OsStr::from_bytes(name));
    write_image(&at(b"plain/images/M\xfcller.nii.gz"));
    write_map(&at(b"plain/labels/M\xfcller.nii.gz"), &[1]);
    write_image(&at(b"raw/imagesTr/M\xfcller_0000.nii.gz"));
    write_map(&at(b"raw/labelsTr/M\xfcller.nii.gz"), &[1]);
    write_text(&at(b"raw/imagesTr/notes \xff.txt"), "");
    let json =
        r#"{"channel_names": {"0": "CT"}, "labels": {"liver": 1}, "file_ending": ".nii.gz"}"#;
    write_text(&at(b"raw/dataset.json"), json);
    write_image(&at(b"total/M\xfcller/ct.nii.gz"));
    write_map(&at(b"total/M\xfcller/segmentations/liver.nii.gz"), &[1]);
    for layout in ["plain", "raw", "total"] {
        let dataset = Dataset::open(&folder.path().join(layout)).unwrap();
        assert_eq!(ids(&dataset), ["M\\xFCller"], "{layout}");
        assert_eq!(problems(&check(&dataset)), [""; 0], "{layout}");
        dataset.load(&dataset.cases[0]).unwrap();
    }
    // A case without a label map of the same bytes is listed.
    write_image(&at(b"plain/images/M\xf6ller.nii.gz"));
    let found = problems(&check(&Dataset::open(&at(b"plain")).unwrap()));
    assert!(
        found.len() == 1 && found[0].starts_with("M\\xF6ller: "),
        "{found:?}"
    );
}
