//! TotalSegmentator's tasks, from weights in its layout, compared with nnU-Net models combined as in TotalSegmentator
//! (scripts/totalsegmentator_weights.py). With CTSEG_TEST_NNUNET.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{run, stderr};
use ctseg_core::model::multi_part::MultiPartModel;
use ctseg_image::nifti::{read_label_names, read_labels};
use ctseg_image::space::LabelMap;
use serde_json::{Value, json};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Writes weights and a scan to `here/fake`, and nnU-Net's label maps of it unless `more` disables them; false without
/// nnU-Net.
fn prepared(here: &Path, more: &[&str]) -> bool {
    let Some(python) = std::env::var_os("CTSEG_TEST_NNUNET") else {
        println!("skipped: CTSEG_TEST_NNUNET is not set");
        return false;
    };
    let made = Command::new(python)
        .arg(root().join("scripts/totalsegmentator_weights.py"))
        .arg(here.join("fake"))
        .arg(root().join("tests/data/example_ct_sm.nii.gz"))
        .args(more)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", stderr(&made));
    true
}

fn import(here: &Path, arguments: &[&str], code: i32) -> String {
    let output = run(
        here,
        &[&["import", "totalsegmentator"], arguments].concat(),
        code,
    );
    String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output)
}

/// Predicts the scan to `out/NAME.nii.gz`, in f32 like nnU-Net on CPUs; returns the label map and its sidecar.
fn predicted(here: &Path, name: &str, more: &[&str]) -> (LabelMap, Value) {
    let output = format!("out/{name}.nii.gz");
    let precision = ["--precision", "f32"];
    let arguments = ["predict", "fake/scan.nii.gz", "-o", &output];
    let arguments = [&arguments[..], &precision].concat();
    run(here, &[&arguments[..], more].concat(), 0);
    let sidecar = fs::read(here.join(format!("out/{name}.json"))).unwrap();
    let map = read_labels(&here.join(&output)).unwrap().1;
    (map, serde_json::from_slice(&sidecar).unwrap())
}

/// The share of voxels that may differ: two logits can be equal to seven digits.
const DIFFERENT: f64 = 2e-4;

fn check(here: &Path, name: &str, map: &LabelMap) {
    let expected = read_labels(&here.join(format!("fake/{name}.nii.gz")))
        .unwrap()
        .1;
    let pairs = map.data.iter().zip(&expected.data);
    let share = pairs.filter(|(a, b)| a != b).count() as f64 / map.data.len() as f64;
    assert!(share < DIFFERENT, "{name}: {share} of the voxels differ");
    let mut labels: Vec<u16> = expected.data.iter().copied().filter(|l| *l > 0).collect();
    labels.sort_unstable();
    let marked = labels.len();
    labels.dedup();
    println!("{name}: {marked} voxels of labels {labels:?}, {share:.1e} differ");
    assert!(marked > 10_000, "{name}: {marked} voxels are too few");
}

/// A crop of the reference in the format of the sidecar's region.
fn box_of(here: &Path, name: &str) -> Value {
    let boxes: Value =
        serde_json::from_slice(&fs::read(here.join("fake/boxes.json")).unwrap()).unwrap();
    let ends = boxes[name].as_array().unwrap();
    let side = |which: usize| {
        ends.iter()
            .map(|axis| axis[which].clone())
            .collect::<Vec<_>>()
    };
    json!({"start": side(0), "end": side(1)})
}

#[test]
fn tasks_match_nnunet_models_combined_as_in_totalsegmentator() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    if !prepared(here, &[]) {
        return;
    }
    let log = import(here, &["fake/results", "--task", "total", "-o", "total"], 0);
    assert!(
        log.contains("117 structures") && log.contains("total_fastest"),
        "{log}"
    );
    let (map, sidecar) = predicted(here, "total", &["--model", "total"]);
    check(here, "total", &map);
    let parts = sidecar["cascade"]["parts"].as_array().unwrap();
    assert_eq!(parts.len(), 5, "{parts:?}");
    assert_eq!(sidecar["structures"].as_object().unwrap().len(), 117);
    assert_eq!(sidecar["cascade"]["looks"], 1);
    let names = read_label_names(&here.join("out/total.nii.gz")).unwrap();
    assert_eq!(
        (names[&1].as_str(), names[&5].as_str()),
        ("spleen", "liver")
    );
    assert_eq!(
        (names[&52].as_str(), names[&117].as_str()),
        ("aorta", "costal_cartilages")
    );

    // Only the organs' part, in the region where the rough model finds the spleen.
    let chosen = ["--model", "total", "--structures", "spleen"];
    let (map, sidecar) = predicted(here, "spleen", &chosen);
    check(here, "spleen", &map);
    let organs = "Dataset291_TotalSegmentator_part1_organs_1559subj";
    assert_eq!(sidecar["cascade"]["parts"], json!([organs]));
    assert_eq!(sidecar["cascade"]["roi"], box_of(here, "spleen"));
    assert!(sidecar["cascade"]["roi_share"].as_f64().unwrap() < 0.8);
    // The other parts may be missing.
    fs::remove_dir_all(here.join("total/Dataset295_TotalSegmentator_part5_ribs_1559subj")).unwrap();
    let again = predicted(here, "again", &chosen).0;
    assert_eq!(again.data, map.data);

    // A task whose region is always found by the network of another task. The parent folder of the weights is accepted.
    let log = import(
        here,
        &["fake", "--task", "lung_vessels", "-o", "vessels"],
        0,
    );
    assert!(
        log.contains("4 structures") && log.contains("total_fast"),
        "{log}"
    );
    let (map, sidecar) = predicted(here, "lung_vessels", &["--model", "vessels"]);
    check(here, "lung_vessels", &map);
    assert_eq!(sidecar["cascade"]["roi"], box_of(here, "lung_vessels"));
    let rough = MultiPartModel::open(&here.join("vessels/rough")).unwrap();
    assert!(
        rough.manifest.rough.is_none(),
        "the rough model needs no rough model"
    );
}

#[test]
fn missing_weights_are_named_with_the_download_command() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    if !prepared(here, &["--weights-only"]) {
        return;
    }
    let results = here.join("fake/results");
    let six = results.join("Dataset298_TotalSegmentator_total_6mm_1559subj");
    without_six(here, &six);
    six_in_a_zip(here, &six);
    let refused = |arguments: &[&str], parts: &[&str]| {
        let arguments = [&["fake"], arguments, &["-o", "none"]].concat();
        let log = import(here, &arguments, 1);
        assert!(parts.iter().all(|part| log.contains(part)), "{log}");
        assert!(!here.join("none").exists(), "{log}");
        log
    };
    // All other weights are required; nothing is written without them.
    let heart = results.join("Dataset293_TotalSegmentator_part3_cardiac_1559subj");
    let trainer = heart.join("nnUNetTrainerNoMirroring__nnUNetPlans__3d_fullres");
    fs::rename(
        &trainer,
        heart.join("nnUNetTrainer__nnUNetPlans__3d_fullres"),
    )
    .unwrap();
    refused(&[], &["nnUNetTrainerNoMirroring", "-t total"]);
    fs::remove_dir_all(&heart).unwrap();
    let download = "totalseg_download_weights -t total";
    let log = refused(&[], &["Dataset293", download]);
    assert_eq!(log.trim().lines().count(), 1, "{log}");
    let lesions = ["--task", "liver_lesions"];
    refused(&lesions, &["Dataset591", "-t liver_lesions"]);
    fs::remove_dir_all(results.join("Dataset297_TotalSegmentator_total_3mm_1559subj")).unwrap();
    let vessels = ["--task", "lung_vessels"];
    refused(&vessels, &["Dataset297", "-t total_fast"]);
    // A network with fewer labels than its task.
    let six = six.join("nnUNetTrainer_4000epochs_NoMirroring__nnUNetPlans__3d_fullres");
    let vessels = results.join("Dataset117_lung_airways_arteries_veins_282subj/nnUNetTrainerSkeletonRecall__nnUNetPlans__3d_fullres");
    fs::remove_dir_all(&six).unwrap();
    fs::rename(vessels, &six).unwrap();
    let fastest = ["--task", "total_fastest"];
    refused(&fastest, &["no structure with label 5"]);
}

/// Only the region of chosen structures needs the 6 mm model.
fn without_six(here: &Path, six: &Path) {
    fs::rename(six, here.join("six")).unwrap();
    let log = import(here, &["fake", "-o", "without"], 0);
    assert!(
        log.contains("whole volumes") && log.contains("Dataset298"),
        "{log}"
    );
    let (map, sidecar) = predicted(
        here,
        "spleen",
        &["--model", "without", "--structures", "spleen"],
    );
    assert!(map.data.iter().any(|label| *label == 1));
    assert_eq!(sidecar["cascade"]["roi"], Value::Null);
    fs::rename(here.join("six"), six).unwrap();
}

/// As in TotalSegmentator's releases.
fn six_in_a_zip(here: &Path, six: &Path) {
    let zip = six.with_extension("zip");
    let zipped = Command::new(std::env::var_os("CTSEG_TEST_NNUNET").unwrap())
        .args(["-m", "zipfile", "-c"])
        .args([zip.as_path(), six])
        .status()
        .unwrap();
    assert!(zipped.success());
    fs::rename(six, here.join("six")).unwrap();
    let fastest = ["fake", "--task", "total_fastest", "-o", "unzipped"];
    let log = import(here, &fastest, 0);
    assert!(
        log.contains("117 structures") && log.contains(".zip"),
        "{log}"
    );
    fs::remove_file(&zip).unwrap();
    fs::rename(here.join("six"), six).unwrap();
    let hash = |model: &Path| MultiPartModel::open(model).unwrap().sha256();
    let before = hash(&here.join("unzipped"));
    import(here, &fastest, 0);
    assert_eq!(hash(&here.join("unzipped")), before, "the same weights");
}

#[test]
fn tasks_that_cannot_be_imported_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    for (task, expected) in [
        ("heartchambers_highres", "license-academic"),
        ("vertebrae_pp", "renumbers the vertebrae"),
        ("totl", "expected a task such as total"),
    ] {
        let log = import(here, &[".", "--task", task], 2);
        assert!(log.contains(expected) && log.contains(task), "{log}");
        assert_eq!(log.trim().lines().count(), 1, "{log}");
    }
    let log = import(here, &["--help"], 0);
    assert!(log.contains("total_fastest, total_mr"), "{log}");
    // Existing models are replaced, other folders are not.
    fs::create_dir(here.join("model")).unwrap();
    fs::write(here.join("model/notes.txt"), "mine").unwrap();
    let log = import(here, &["."], 1);
    assert!(log.contains("notes.txt"), "{log}");
}
