//! Existing output files: kept, predicted again, or left alone.

use super::*;
use ctseg_image::formats::{LabelNames, read_label_map, write_label_map};

/// `predict images -o out --json` with `more`.
fn predicted(folder: &Path, more: &[&str], code: i32) -> Value {
    let arguments = [&["predict", "images", "-o", "out", "--json"], more].concat();
    run_json(folder, &arguments, code)
}

/// Changes a voxel, as a manual correction would.
fn correct(label_map: &Path) {
    let (header, mut labels) = read_label_map(label_map).unwrap();
    let first = labels.data.first_mut().unwrap();
    *first = 1 - (*first).min(1);
    write_label_map(label_map, &labels, &header, &LabelNames::new()).unwrap();
}

#[test]
fn existing_files_decide_with_and_without_claims() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let count = |summary: &Value, what: &str| summary[what].as_array().unwrap().len();
    batch(folder.path(), 4);
    let claims = ["--claim", "claims"];
    for more in [&[][..], &claims[..]] {
        let _ = std::fs::remove_dir_all(at("out"));
        assert_eq!(count(&predicted(folder.path(), more, 0), "written"), 4);
        let sound = std::fs::read(at("out/case_01.nii.gz")).unwrap();
        correct(&at("out/case_00.nii.gz"));
        let corrected = std::fs::read(at("out/case_00.nii.gz")).unwrap();
        std::fs::remove_file(at("out/case_01.nii.gz")).unwrap();
        std::fs::remove_file(at("out/case_02.json")).unwrap();
        let summary = predicted(folder.path(), more, 3);
        assert_eq!(
            summary["written"],
            serde_json::json!(["out/case_01.nii.gz"])
        );
        assert_eq!(count(&summary, "kept"), 2, "{summary}");
        let note = summary["notes"][0].to_string();
        assert!(
            note.contains("case_00.nii.gz was changed since ctseg wrote it"),
            "{note}"
        );
        let failed = summary["failed"].to_string();
        assert!(
            failed.contains("case_02.nii.gz: was not made by ctseg"),
            "{failed}"
        );
        assert!(std::fs::read(at("out/case_00.nii.gz")).unwrap() == corrected);
        assert!(std::fs::read(at("out/case_01.nii.gz")).unwrap() == sound);
        let manifest = json(&at("out/predictions.json"));
        assert!(manifest["cases"][0]["notes"][0].is_string(), "{manifest}");
    }
    // The claims of this batch stay valid; a new claims folder is a new batch.
    let other_claims = ["--overwrite", "--claim", "others"];
    assert_eq!(
        count(&predicted(folder.path(), &other_claims, 0), "written"),
        4
    );
    assert_eq!(
        count(&predicted(folder.path(), &other_claims, 0), "kept"),
        4
    );
    // Other prediction settings.
    let masks = ["--no-postprocess", "--split"];
    assert_eq!(count(&predicted(folder.path(), &masks, 0), "written"), 4);
}

#[test]
fn references_are_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    batch(folder.path(), 1);
    std::fs::create_dir(at("out")).unwrap();
    std::fs::copy(at("images/case_00.nii.gz"), at("out/case_00.nii.gz")).unwrap();
    let drawn = std::fs::read(at("out/case_00.nii.gz")).unwrap();
    // Also without other cases: the file is kept, and the case is not predicted.
    predicted(folder.path(), &[], 3);
    assert!(std::fs::read(at("out/case_00.nii.gz")).unwrap() == drawn);
    assert!(!at("out/case_00.json").exists());
    // A dataset's labels are never written to.
    std::fs::rename(at("out"), at("labels")).unwrap();
    for more in [&[][..], &["--overwrite"]] {
        let arguments = [&["predict", "images", "-o", "labels"], more].concat();
        let log = stderr(&run(folder.path(), &arguments, 2));
        assert!(log.contains("the reference labels of"), "{log}");
    }
    assert!(std::fs::read(at("labels/case_00.nii.gz")).unwrap() == drawn);
    std::fs::rename(at("labels"), at("out")).unwrap();
    // Files with ctseg's names, written by other programs.
    let others =
        ["predictions.json", "failures.jsonl", "statistics.csv"].map(|name| at("out").join(name));
    others
        .iter()
        .for_each(|file| std::fs::write(file, "somebody's\n").unwrap());
    let summary = predicted(folder.path(), &["--overwrite"], 0);
    assert_eq!(summary["written"][0], "out/case_00.nii.gz");
    for file in others {
        assert_eq!(
            std::fs::read(&file).unwrap(),
            b"somebody's\n",
            "{}",
            file.display()
        );
    }
    assert_eq!(json(&at("out/predictions.batch.json"))["ended"], true);
}
