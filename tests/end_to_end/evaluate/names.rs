//! Matching of label maps to references by name.

use super::*;

/// The ids of the compared cases.
fn compared(summary: &Value) -> Vec<String> {
    let cases = summary["compared"].as_array().unwrap().iter();
    cases
        .map(|case| case["case"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn label_maps_match_references_with_the_same_layout() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for (site, case) in [("a", "p1"), ("a", "p2"), ("b", "p1")] {
        write(&at(&format!("pred/{site}/{case}/ct.nii.gz")), [1, 1, 0, 2]);
        write(&at(&format!("ref/{site}/{case}/ct.nii")), [1, 1, 0, 2]);
    }
    let found = summary(folder.path(), &["pred", "ref", "-o", "out"]);
    assert_eq!(compared(&found), ["a/p1/ct", "a/p2/ct", "b/p1/ct"]);
    assert_eq!(found["mean"]["dice"], 1.0);
}

#[test]
fn label_maps_match_by_folder_name_or_without_channel_number() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    // Named after their folders, as predict does; with and without nnU-Net's channel number.
    write(&at("flat/t1.nii.gz"), [1, 1, 0, 2]);
    write(&at("flat/t2.nii.gz"), [1, 1, 0, 2]);
    write(&at("own/t1/seg.nii.gz"), [1, 1, 0, 2]);
    write(&at("own/t2/seg.nii.gz"), [1, 1, 0, 2]);
    let found = summary(folder.path(), &["flat", "own", "-o", "out"]);
    assert_eq!(compared(&found), ["t1/seg", "t2/seg"]);
    write(&at("numbered/t1_0000.nii.gz"), [1, 1, 0, 2]);
    write(&at("numbered/t2_0000.nii.gz"), [1, 1, 0, 2]);
    for pair in [["flat", "numbered"], ["numbered", "flat"]] {
        let found = summary(folder.path(), &[&pair[..], &["-o", "out"]].concat());
        assert_eq!(found["cases"], 2, "{found}");
    }
    // Label maps in subfolders count only if predict wrote them.
    write(&at("flat/images/t1.nii.gz"), [9, 9, 9, 9]);
    let found = summary(folder.path(), &["flat", "own", "-o", "out"]);
    assert_eq!(found["cases"], 2, "{found}");
}

#[test]
fn numbered_names_are_separate_cases() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for number in 0..3 {
        write(&at(&format!("set/images/v_000{number}.nii.gz")), [9; 4]);
        write(
            &at(&format!("set/labels/v_000{number}.nii.gz")),
            [1, 0, 0, 2],
        );
        write(&at(&format!("pred/v_000{number}.nii.gz")), [1, 0, 0, 2]);
    }
    let found = summary(folder.path(), &["pred", "set", "-o", "out"]);
    assert_eq!(
        (&found["cases"], &found["missing_predictions"]),
        (&3.into(), &serde_json::json!([]))
    );
    // A single one keeps its name.
    write(&at("one/v_0000.nii.gz"), [1, 0, 0, 2]);
    let found = summary(folder.path(), &["one", "set", "-o", "out"]);
    assert_eq!(found["compared"][0]["case"], "v_0000");
}

#[test]
fn a_name_clash_fails_only_its_pair() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["pred/a.nii", "pred/b.nii", "pred/b.nii.gz", "pred/c.nii"] {
        write(&at(name), [1, 0, 0, 2]);
    }
    for name in ["ref/a.nii", "ref/b.nii", "ref/c.nii", "ref/c.nii.gz"] {
        write(&at(name), [1, 0, 0, 2]);
    }
    std::fs::create_dir_all(at("pred/d.nii")).unwrap(); // a folder is not a label map
    let found = run_json(folder.path(), &["evaluate", "pred", "ref", "--json"], 3);
    assert_eq!(
        (&found["cases"], &found["compared"][0]["case"]),
        (&1.into(), &"a".into())
    );
    let failed: Vec<&str> = found["failed"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|failed| failed["reason"].as_str())
        .collect();
    assert_eq!(failed.len(), 3, "{failed:?}");
    assert!(
        failed[0].contains("case 'b' has a second label map, pred/b.nii.gz;"),
        "{failed:?}"
    );
    assert!(
        failed[2].contains("case 'c' has a second reference, ref/c.nii;"),
        "{failed:?}"
    );
}

#[test]
fn names_that_are_not_utf_8_are_compared_and_listed() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &[u8]| folder.path().join(std::ffi::OsStr::from_bytes(name));
    for name in [&b"M\xfcller.nii.gz"[..], b"M\xf6ller.nii.gz"] {
        write(&at(&[b"pred/", name].concat()), [1, 0, 0, 2]);
        write(&at(&[b"ref/", name].concat()), [1, 0, 0, 2]);
    }
    write(&at(b"pred/\xff.nii.gz"), [1, 0, 0, 2]);
    let found = run_json(folder.path(), &["evaluate", "pred", "ref", "--json"], 3);
    let cases = found["compared"].as_array().unwrap().iter();
    let cases: Vec<&str> = cases.filter_map(|case| case["case"].as_str()).collect();
    assert_eq!(cases, ["M\\xF6ller", "M\\xFCller"]);
    assert_eq!(found["failed"][0]["input"], "pred/\\xFF.nii.gz");
}
