//! CT whose values are not Hounsfield units: reported by `inspect`, by fingerprints and before training, and converted
//! to Hounsfield units where that is safe.

use std::path::Path;

use crate::common::{phantoms, run, run_json, stderr};
use ctseg_core::dataset::Dataset;
use ctseg_image::nifti::{VoxelType, read_volume, write_volume};
use ctseg_image::space::Volume;
use serde_json::Value;

const CT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/data/example_ct_sm.nii.gz"
);
const LABELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/example_seg.nii.gz");

fn wrapped(hu: f32) -> f32 {
    if hu < 0.0 { hu + 65_536.0 } else { hu }
}

fn windowed(hu: f32) -> f32 {
    (hu.clamp(-160.0, 240.0) + 160.0) / 400.0
}

/// Writes the image at `from` with mapped values to `to`.
fn map_values(from: &Path, to: &Path, voxel_type: VoxelType, of: impl Fn(f32) -> f32) {
    let volume = read_volume(from).unwrap().volume;
    let data = volume.data.mapv(of);
    write_volume(to, &Volume { data, ..volume }, voxel_type).unwrap();
}

/// The warnings of `inspect`.
fn warnings(folder: &Path, arguments: &[&str]) -> Vec<String> {
    let value = run_json(folder, &[&["inspect", "--json"], arguments].concat(), 0);
    serde_json::from_value(value["warnings"].clone()).unwrap()
}

#[test]
fn a_ct_passes_and_its_copies_on_other_scales_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let warned = |arguments: &[&str], part: &str| {
        let found = warnings(folder.path(), arguments);
        let about_hu = found.iter().filter(|line| line.contains("Hounsfield"));
        let about_hu: Vec<&String> = about_hu.collect();
        assert!(
            about_hu.len() == 1 && about_hu[0].contains(part),
            "{arguments:?}: {found:?}"
        );
    };
    let passes = |arguments: &[&str]| {
        let found = warnings(folder.path(), arguments);
        assert!(
            !found.join(" ").contains("Hounsfield"),
            "{arguments:?}: {found:?}"
        );
        found
    };
    passes(&[CT]);
    passes(&[LABELS]);
    let ct = Path::new(CT);
    map_values(ct, &at("plus.nii"), VoxelType::I16, |hu| hu + 1024.0);
    warned(
        &["plus.nii"],
        "as if 1024 had not been subtracted; subtract it, or use --rescale-hu auto",
    );
    let converted = passes(&["plus.nii", "--rescale-hu", "auto"]);
    assert!(
        converted.contains(&"converted to HU: 1024 subtracted".to_owned()),
        "{converted:?}"
    );
    passes(&["plus.nii", "--rescale-hu", "-1024,1"]);
    map_values(ct, &at("wrapped.nii.gz"), VoxelType::U16, wrapped);
    warned(&["wrapped.nii.gz"], "just below 65536");
    passes(&["wrapped.nii.gz", "--rescale-hu", "auto"]);
    map_values(ct, &at("unit.nii.gz"), VoxelType::F32, windowed);
    warned(&["unit.nii.gz"], "all values lie from 0 to 1");
    warned(
        &["unit.nii.gz", "--rescale-hu", "auto"],
        "all values lie from 0 to 1",
    );
    map_values(ct, &at("bytes.nii.gz"), VoxelType::U8, |hu| {
        255.0 * windowed(hu)
    });
    warned(&["bytes.nii.gz"], "all values lie from 0 to 255");
    map_values(ct, &at("zeros.nii.gz"), VoxelType::I16, |_| 0.0);
    warned(&["zeros.nii.gz"], "every voxel has the value 0");
    // Labels without names are not taken for CT.
    let labels = read_volume(Path::new(LABELS)).unwrap().volume;
    write_volume(&at("labels.nii.gz"), &labels, VoxelType::U8).unwrap();
    passes(&["labels.nii.gz"]);
    let refused = run(folder.path(), &["inspect", CT, "--rescale-hu", "1"], 2);
    assert!(
        stderr(&refused).contains("expected auto, or OFFSET,SLOPE"),
        "{}",
        stderr(&refused)
    );
}

/// Phantoms: the second with 1024 added, the third wrapped around; returns the fingerprint from before.
fn phantoms_not_in_hu(folder: &Path) -> (String, Value) {
    let descriptor = phantoms(folder, 3, 0);
    let path = descriptor.to_str().unwrap().to_owned();
    let before = fingerprint(folder, &[&path]);
    let dataset = Dataset::open(&descriptor).unwrap();
    let images: Vec<&Path> = dataset
        .cases
        .iter()
        .map(|case| case.image.as_path())
        .collect();
    map_values(images[1], images[1], VoxelType::I16, |hu| hu + 1024.0);
    map_values(images[2], images[2], VoxelType::U16, wrapped);
    (path, before)
}

fn fingerprint(folder: &Path, arguments: &[&str]) -> Value {
    let all = [&["inspect", "--fingerprint", "--json"], arguments].concat();
    let value = run_json(folder, &all, 0);
    value["fingerprint"].clone()
}

#[test]
fn wrapped_air_is_not_taken_for_a_label() {
    let folder = tempfile::tempdir().unwrap();
    let flat = |hu: f32| wrapped(hu.max(-700.0));
    map_values(
        Path::new(CT),
        &folder.path().join("flat.nii"),
        VoxelType::U16,
        flat,
    );
    let found = warnings(folder.path(), &["flat.nii"]).join(" ");
    assert!(found.contains("just below 65536"), "{found}");
}

#[test]
fn the_planner_excludes_values_that_are_not_hounsfield_units() {
    let folder = tempfile::tempdir().unwrap();
    let (path, before) = phantoms_not_in_hu(folder.path());
    assert_eq!(before["not_hu"], Value::Null);
    let output = run(
        folder.path(),
        &["plan", &path, "-o", "plan", "--memory", "4G"],
        0,
    );
    let log = stderr(&output);
    for (case, why) in [
        ("phantom_001", "1024 had not been"),
        ("phantom_002", "just below 65536"),
    ] {
        let lines = log
            .lines()
            .filter(|line| line.contains(case))
            .collect::<Vec<_>>();
        assert!(lines.len() == 1 && lines[0].contains(why), "{log}");
    }
    assert!(!log.contains("phantom_000"), "{log}");
    let kept = std::fs::read(folder.path().join("plan/fingerprint.json")).unwrap();
    let kept: Value = serde_json::from_slice(&kept).unwrap();
    assert_eq!(kept["not_hu"].as_array().unwrap().len(), 2);
    let highest = kept["foreground_hu"]["max"].as_f64().unwrap();
    assert!(
        highest <= before["foreground_hu"]["max"].as_f64().unwrap(),
        "{highest}"
    );
    let rescaled = fingerprint(folder.path(), &[&path, "--rescale-hu", "auto"]);
    assert_eq!(rescaled, before);
}

#[test]
fn reading_options_cannot_change_on_resume() {
    let folder = tempfile::tempdir().unwrap();
    for flag in [["--rescale-hu", "auto"], ["--grid-tolerance", "1"]] {
        for command in ["fit", "sweep"] {
            let arguments = [&[command, "--resume", "run"], &flag[..]].concat();
            let refused = stderr(&run(folder.path(), &arguments, 2));
            assert!(refused.contains("cannot be used with"), "{refused}");
        }
    }
}
