//! Names of structures in label maps.

use std::path::Path;
use std::process::Command;

use crate::golden;
use crate::nifti_labels::labels_on;
use ctseg_image::nifti::{
    LabelNames, read_header, read_label_names, read_labels, write_labels, write_named_labels,
};
use ctseg_image::space::LabelMap;

fn two_names() -> LabelNames {
    [(1, "liver & more"), (300, "größe <µ>")]
        .map(|(value, name)| (value, name.to_owned()))
        .into()
}

#[test]
fn names_are_embedded_in_either_version_and_byte_order() {
    let folder = tempfile::tempdir().unwrap();
    for case in [
        "nifti1 little i2",
        "nifti1 big i2",
        "nifti2 little i2",
        "nifti2 big i2",
    ] {
        let source = read_header(&golden::named(case).write(folder.path())).unwrap();
        let labels = labels_on(source.grid(), 300);
        for name in ["labels.nii", "labels.nii.gz"] {
            let path = folder.path().join(name);
            write_named_labels(&path, &labels, &source, &two_names()).unwrap();
            assert_eq!(read_label_names(&path).unwrap(), two_names(), "{case}");
            let (header, back) = read_labels(&path).unwrap();
            assert_eq!(back, labels, "{case}");
            assert_eq!(header.warnings(), source.warnings(), "{case}");
            // Extensions of the source are not copied, and a plain label map has no names.
            write_labels(&path, &labels, &header).unwrap();
            assert_eq!(read_label_names(&path).unwrap(), LabelNames::new());
        }
        let path = folder.path().join("labels.nii.gz");
        write_named_labels(&path, &labels, &source, &two_names()).unwrap();
        check_names_with_nibabel(&path, &labels, case);
    }
}

fn check_names_with_nibabel(path: &Path, labels: &LabelMap, case: &str) {
    let Some(python) = std::env::var_os("CTSEG_TEST_PYTHON") else {
        println!("skipped: CTSEG_TEST_PYTHON is not set");
        return;
    };
    let output = Command::new(python)
        .arg(
            Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
                .join("scripts/check_nibabel.py"),
        )
        .args([std::ffi::OsStr::new("names"), path.as_os_str()])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{case}: {errors}");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = serde_json::json!({"1": "liver & more", "300": "größe <µ>"});
    assert_eq!(found["names"], expected, "{case}");
    let mut crc = flate2::Crc::new();
    labels
        .data
        .iter()
        .for_each(|label| crc.update(&label.to_le_bytes()));
    assert_eq!(found["voxels_crc32"], crc.sum(), "{case}");
}
