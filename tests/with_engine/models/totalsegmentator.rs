//! TotalSegmentator's tasks, from weights in its layout, against nnU-Net put together as TotalSegmentator does; see
//! scripts/totalsegmentator_weights.py. With CTSEG_TEST_NNUNET.

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

/// Weights and a scan in `here/fake`, and nnU-Net's label maps of it unless `more` says otherwise; false where there is
/// no nnU-Net.
fn prepared(here: &Path, more: &[&str]) -> bool {
    let Some(python) = std::env::var_os("CTSEG_TEST_NNUNET") else {
        println!("left out: CTSEG_TEST_NNUNET is not set");
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

/// Predicts the scan into `out/NAME.nii.gz`, in f32 as nnU-Net on CPUs; the label map and its sidecar.
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

/// Fewer voxels than this share may differ: those where two logits are the same to seven digits.
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
    assert!(marked > 10_000, "{name}: {marked} voxels prove little");
}

/// A crop of the reference as a region of a sidecar.
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
fn tasks_segment_what_nnunet_does_put_together_as_totalsegmentator_does() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    if !prepared(here, &[]) {
        return;
    }
    let said = import(here, &["fake/results", "--task", "total", "-o", "total"], 0);
    assert!(
        said.contains("117 structures") && said.contains("total_fastest"),
        "{said}"
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

    // Only the organs' part, in the region where the rough model sees a spleen.
    let chosen = ["--model", "total", "--structures", "spleen"];
    let (map, sidecar) = predicted(here, "spleen", &chosen);
    check(here, "spleen", &map);
    let organs = "Dataset291_TotalSegmentator_part1_organs_1559subj";
    assert_eq!(sidecar["cascade"]["parts"], json!([organs]));
    assert_eq!(sidecar["cascade"]["roi"], box_of(here, "spleen"));
    assert!(sidecar["cascade"]["roi_share"].as_f64().unwrap() < 0.8);
    // The other parts can be gone.
    fs::remove_dir_all(here.join("total/Dataset295_TotalSegmentator_part5_ribs_1559subj")).unwrap();
    let again = predicted(here, "again", &chosen).0;
    assert_eq!(again.data, map.data);

    // A task whose region the network of another task finds, for every volume. The folder above the weights will do.
    let said = import(
        here,
        &["fake", "--task", "lung_vessels", "-o", "vessels"],
        0,
    );
    assert!(
        said.contains("4 structures") && said.contains("total_fast"),
        "{said}"
    );
    let (map, sidecar) = predicted(here, "lung_vessels", &["--model", "vessels"]);
    check(here, "lung_vessels", &map);
    assert_eq!(sidecar["cascade"]["roi"], box_of(here, "lung_vessels"));
    let rough = MultiPartModel::open(&here.join("vessels/rough")).unwrap();
    assert!(rough.manifest.rough.is_none(), "of no use there");
}

#[test]
fn what_is_missing_is_named_with_what_downloads_it() {
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
        let said = import(here, &arguments, 1);
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
        assert!(!here.join("none").exists(), "{said}");
        said
    };
    // All else is needed; nothing is begun without it.
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
    let said = refused(&[], &["Dataset293", download]);
    assert_eq!(said.trim().lines().count(), 1, "{said}");
    let lesions = ["--task", "liver_lesions"];
    refused(&lesions, &["Dataset591", "-t liver_lesions"]);
    fs::remove_dir_all(results.join("Dataset297_TotalSegmentator_total_3mm_1559subj")).unwrap();
    let vessels = ["--task", "lung_vessels"];
    refused(&vessels, &["Dataset297", "-t total_fast"]);
    // A network that gives fewer labels than its task has.
    let six = six.join("nnUNetTrainer_4000epochs_NoMirroring__nnUNetPlans__3d_fullres");
    let vessels = results.join("Dataset117_lung_airways_arteries_veins_282subj/nnUNetTrainerSkeletonRecall__nnUNetPlans__3d_fullres");
    fs::remove_dir_all(&six).unwrap();
    fs::rename(vessels, &six).unwrap();
    let fastest = ["--task", "total_fastest"];
    refused(&fastest, &["no structure with label 5"]);
}

/// Of the 6 mm model nothing but the region of chosen structures depends.
fn without_six(here: &Path, six: &Path) {
    fs::rename(six, here.join("six")).unwrap();
    let said = import(here, &["fake", "-o", "without"], 0);
    assert!(
        said.contains("whole volumes") && said.contains("Dataset298"),
        "{said}"
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

/// As TotalSegmentator's releases have it.
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
    let said = import(here, &fastest, 0);
    assert!(
        said.contains("117 structures") && said.contains(".zip"),
        "{said}"
    );
    fs::remove_file(&zip).unwrap();
    fs::rename(here.join("six"), six).unwrap();
    let hash = |model: &Path| MultiPartModel::open(model).unwrap().sha256();
    let before = hash(&here.join("unzipped"));
    import(here, &fastest, 0);
    assert_eq!(hash(&here.join("unzipped")), before, "the same weights");
}

#[test]
fn tasks_that_cannot_be_imported_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    for (task, expected) in [
        ("heartchambers_highres", "license-academic"),
        ("vertebrae_pp", "renumbers the vertebrae"),
        ("totl", "expected a task such as total"),
    ] {
        let said = import(here, &[".", "--task", task], 2);
        assert!(said.contains(expected) && said.contains(task), "{said}");
        assert_eq!(said.trim().lines().count(), 1, "{said}");
    }
    let said = import(here, &["--help"], 0);
    assert!(said.contains("total_fastest, total_mr"), "{said}");
    // A model that is there is replaced, all else is not.
    fs::create_dir(here.join("model")).unwrap();
    fs::write(here.join("model/notes.txt"), "mine").unwrap();
    let said = import(here, &["."], 1);
    assert!(said.contains("notes.txt"), "{said}");
}
