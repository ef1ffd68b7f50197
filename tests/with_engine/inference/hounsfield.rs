//! Volumes whose values are not Hounsfield units: segmented with a warning, or rescaled.

use std::path::Path;

use crate::common::batches::{ball, batch, json, small_grid};
use crate::common::{random_model, run, stderr};
use ctseg_image::nifti::{VoxelType, read_labels, write_volume};
use ctseg_image::space::Volume;

/// The batch's volume with 1024 added.
fn raw(path: &Path) {
    let volume = ball(0, small_grid());
    let data = volume.data.mapv(|hu| hu + 1024.0);
    write_volume(path, &Volume { data, ..volume }, VoxelType::I16).unwrap();
}

#[test]
fn other_values_give_a_warning_and_can_be_rescaled_to_hounsfield_units() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    batch(folder.path(), 1);
    raw(&at("images/raw.nii.gz"));
    let predict = |input: &str, more: &[&str]| {
        let arguments = [&["predict", input, "-o", "out"], more].concat();
        stderr(&run(folder.path(), &arguments, 0))
    };
    let log = predict("images", &[]);
    let about_hu = log.lines().filter(|line| line.contains("Hounsfield"));
    let about_hu: Vec<&str> = about_hu.collect();
    assert!(
        about_hu.len() == 1
            && about_hu[0].contains("warning")
            && about_hu[0].contains("images/raw.nii.gz"),
        "{log}"
    );
    let labels = |case: &str| read_labels(&at(&format!("out/{case}.nii.gz"))).unwrap().1;
    let sidecar = |case: &str| json(&at(&format!("out/{case}.json")));
    assert!(
        sidecar("raw")["notes"][0]
            .as_str()
            .unwrap()
            .contains("--rescale-hu auto")
    );
    assert!(sidecar("case_00")["rescale_hu"].is_null());
    assert_ne!(labels("raw").data, labels("case_00").data);
    // The same volume, predicted again because it is read differently.
    let log = predict("images/raw.nii.gz", &["--rescale-hu", "auto"]);
    assert!(
        log.contains("converted to HU: 1024 subtracted") && !log.contains("Hounsfield"),
        "{log}"
    );
    assert_eq!(labels("raw").data, labels("case_00").data);
    assert_eq!(sidecar("raw")["rescale_hu"], "auto");
    let [own, other] = ["raw", "case_00"].map(|case| sidecar(case)["statistics"].clone());
    assert_eq!(own, other);
    let before = std::fs::read(at("out/raw.json")).unwrap();
    predict("images/raw.nii.gz", &["--rescale-hu", "auto"]);
    assert_eq!(
        std::fs::read(at("out/raw.json")).unwrap(),
        before,
        "it was not kept"
    );
    predict("images/raw.nii.gz", &["--rescale-hu", "-1024,1"]);
    assert_eq!(sidecar("raw")["rescale_hu"], "-1024,1");
    assert_eq!(labels("raw").data, labels("case_00").data);
}

#[test]
fn models_of_other_modalities_do_not_expect_hounsfield_units() {
    let folder = tempfile::tempdir().unwrap();
    raw(&folder.path().join("raw.nii.gz"));
    random_model(
        &folder.path().join("model"),
        &["normalisation={kind=\"z_score\"}"],
    );
    let log = stderr(&run(
        folder.path(),
        &["predict", "raw.nii.gz", "-o", "out"],
        0,
    ));
    assert!(!log.contains("Hounsfield"), "{log}");
    let arguments = ["predict", "raw.nii.gz", "-o", "out", "--rescale-hu", "auto"];
    let refused = stderr(&run(folder.path(), &arguments, 2));
    assert!(refused.contains("--rescale-hu is for CT"), "{refused}");
}
