//! Folds of a converted dataset.

use super::*;

#[test]
fn folds_keep_the_cases_of_a_patient_together() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let cases = ["p1-a", "p1-b", "p2-a", "p2-b", "p3-a", "p4-a"];
    write_dataset(&at("data"), &cases.map(|name| (name, [1].as_slice())));
    let descriptor = "name = \"twice\"\nimages = \"images/*.nii.gz\"\nlabels = \"labels/{case}.nii.gz\"\npatient_delimiter = \"-\"\ntest = [\"p4-a\"]\n";
    fs::write(at("data/dataset.toml"), descriptor).unwrap();
    let arguments = ["convert", "data", "-o", "raw", "--to", "nnunet"];
    let output = run(folder.path(), &arguments, 0);
    assert!(
        stderr(&output).contains("nnU-Net's own folds would split; --folds 5"),
        "{}",
        stderr(&output)
    );
    let output = run(
        folder.path(),
        &[&arguments[..], &["--folds", "3"]].concat(),
        0,
    );
    assert!(
        !stderr(&output).contains("would split"),
        "{}",
        stderr(&output)
    );
    let converted = at("raw/Dataset500_twice");
    let splits = json(&converted.join("splits_final.json"));
    let mut held_out: Vec<Value> = splits
        .as_array()
        .unwrap()
        .iter()
        .map(|split| split["val"].clone())
        .collect();
    held_out.sort_by_key(ToString::to_string);
    assert_eq!(
        json!(held_out),
        json!([["p1-a", "p1-b"], ["p2-a", "p2-b"], ["p3-a"]])
    );
}

#[test]
fn valid_nnunet_folds_are_copied() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_dataset(
        &at("data"),
        &["a", "b", "c 1", "d"].map(|name| (name, [1].as_slice())),
    );
    run(
        folder.path(),
        &["convert", "data", "-o", "raw", "--to", "nnunet"],
        0,
    );
    let converted = at("raw/Dataset500_data");
    let again = [
        "raw/Dataset500_data",
        "-o",
        "raw",
        "--to",
        "nnunet",
        "--id",
        "501",
    ];
    let splits = |train: &[&str]| {
        let folds = json!([{"train": train, "val": ["c_1"]}]);
        fs::write(converted.join("splits_final.json"), folds.to_string()).unwrap();
    };
    splits(&["a", "bb"]);
    let log = refused(folder.path(), &again, 1);
    assert!(
        log.contains("fold 0 names case 'bb', which is not in the dataset"),
        "{log}"
    );
    splits(&["a", "c_1"]);
    let log = refused(folder.path(), &[&again[..], &["--check"]].concat(), 1);
    assert!(log.contains("case 'c_1' both in train and in val"), "{log}");
    assert!(!at("raw/Dataset501_data").exists());
    splits(&["a", "b"]);
    let output = run(folder.path(), &[&["convert"], &again[..]].concat(), 0);
    let log = stderr(&output);
    assert!(
        log.contains("splits_final.json")
            && log.contains("1 training case in no fold")
            && log.contains(": d"),
        "{log}"
    );
    assert_eq!(
        json(&at("raw/Dataset501_data/splits_final.json")),
        json!([{"train": ["a", "b"], "val": ["c_1"]}])
    );
}

#[test]
fn omitted_folds_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_dataset(&at("data"), &["a", "b"].map(|name| (name, [1].as_slice())));
    let first = [
        "convert", "data", "-o", "raw", "--to", "nnunet", "--folds", "2",
    ];
    run(folder.path(), &first, 0);
    let converted = at("raw/Dataset500_data");
    let to_msd = [
        "convert",
        "raw/Dataset500_data",
        "-o",
        "tasks",
        "--to",
        "msd",
    ];
    let log = stderr(&run(folder.path(), &to_msd, 0));
    assert!(log.contains("Decathlon has no folds"), "{log}");
    // A failed case leaves both folds with an empty half.
    fs::write(converted.join("imagesTr/a_0000.nii.gz"), b"no").unwrap();
    let again = [
        "raw/Dataset500_data",
        "-o",
        "raw",
        "--to",
        "nnunet",
        "--id",
        "502",
    ];
    let log = stderr(&run(folder.path(), &[&["convert"], &again[..]].concat(), 3));
    assert!(log.contains("2 of 2 folds omitted"), "{log}");
}
