//! The folder of a conversion, what is left alone there, and how a stopped run is resumed.

use ctseg_base::progress::{Observer, Silent, Task};
use ctseg_interop::convert::{Conversion, Format, Overlaps, Requested, Target, convert};

use super::*;

#[test]
fn the_requested_names_and_numbers_are_used() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_dataset(&at("My data"), &[("a", &[1])]);
    let convert = |arguments: &[&str]| {
        let all = [&["convert", "My data", "-o", "out", "--to"], arguments].concat();
        let summary = run_json(folder.path(), &[&all[..], &["--json"]].concat(), 0);
        summary["name"].as_str().unwrap().to_owned()
    };
    assert_eq!(convert(&["nnunet"]), "Dataset500_My_data");
    assert_eq!(
        convert(&["nnunet"]),
        "Dataset500_My_data",
        "the existing one"
    );
    assert_eq!(convert(&["nnunet", "--name", "Other"]), "Dataset501_Other");
    assert_eq!(
        convert(&["nnunet", "--name", "Dataset123_Foo"]),
        "Dataset123_Foo"
    );
    assert_eq!(
        convert(&["nnunet", "--id", "7", "--name", "Foo"]),
        "Dataset007_Foo"
    );
    assert_eq!(convert(&["msd", "--name", "Task07_Foo"]), "Task07_Foo");
    assert_eq!(convert(&["msd"]), "Task11_My-data");
    assert_eq!(convert(&["msd", "--name", "Dataset123_Foo"]), "Task123_Foo");
}

#[test]
fn invalid_names_and_numbers_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    write_dataset(&folder.path().join("My data"), &[("a", &[1])]);
    let to_nnunet = ["My data", "-o", "out", "--to", "nnunet"];
    let foo = [&["convert"], &to_nnunet[..], &["--name", "Dataset123_Foo"]].concat();
    run(folder.path(), &foo, 0);
    let more: [(&[&str], i32, &str); 5] = [
        (
            &["--id", "123", "--name", "Bar"],
            2,
            "already contains a dataset with number 123, Foo",
        ),
        (
            &["--id", "5", "--name", "Dataset006_X"],
            2,
            "give different numbers",
        ),
        (&["--id", "1000"], 2, "expected 1 to 999"),
        (&["--name", "a b"], 2, "such as a_b"),
        (
            &["--folds", "3"],
            1,
            "1 patient available for training, too few",
        ),
    ];
    for (more, code, reason) in more {
        let log = refused(folder.path(), &[&to_nnunet[..], more].concat(), code);
        assert!(log.contains(reason), "{log}");
    }
    let own_folder = ["My data", "-o", "out/Dataset009_X", "--to", "nnunet"];
    let log = refused(
        folder.path(),
        &[&own_folder[..], &["--id", "3"]].concat(),
        2,
    );
    assert!(log.contains("already names the dataset"), "{log}");
    let itself = ["out/Dataset123_Foo", "-o", "out", "--to", "nnunet"];
    let log = refused(folder.path(), &itself, 2);
    assert!(log.contains("is the dataset to be converted"), "{log}");
    let to_msd = ["My data", "-o", "out", "--to", "msd", "--folds", "3"];
    let log = refused(folder.path(), &to_msd, 2);
    assert!(log.contains("--folds is only for --to nnunet"), "{log}");
}

#[test]
fn files_not_written_by_ctseg_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_dataset(&at("data"), &[("a", &[1]), ("b", &[1])]);
    write_dataset(&at("other"), &[("a", &[1])]);
    fs::create_dir_all(at("raw/Dataset001_Mine/imagesTr")).unwrap();
    fs::write(at("raw/Dataset001_Mine/dataset.json"), "{}").unwrap();
    let mine = [
        "data",
        "-o",
        "raw/Dataset001_Mine",
        "--to",
        "nnunet",
        "--overwrite",
    ];
    assert!(refused(folder.path(), &mine, 1).contains("was not written by 'ctseg convert'"));
    assert_eq!(
        fs::read(at("raw/Dataset001_Mine/dataset.json")).unwrap(),
        b"{}"
    );
    let arguments = ["data", "-o", "raw", "--to", "nnunet"];
    run(folder.path(), &[&["convert"], &arguments[..]].concat(), 0);
    let converted = at("raw/Dataset500_data");
    fs::write(converted.join("imagesTr/stranger_0000.nii.gz"), b"").unwrap();
    let log = refused(folder.path(), &arguments, 1);
    assert!(
        log.contains("imagesTr/stranger_0000.nii.gz: does not belong to this conversion"),
        "{log}"
    );
    fs::remove_file(converted.join("imagesTr/stranger_0000.nii.gz")).unwrap();
    // Another source under the same name is refused, and replaces it with --overwrite.
    let other = ["other", "-o", "raw/Dataset500_data", "--to", "nnunet"];
    let log = refused(folder.path(), &other, 1);
    assert!(
        log.contains("contains a conversion of") && log.contains("/data; choose another"),
        "{log}"
    );
    run(
        folder.path(),
        &[&["convert"], &other[..], &["--overwrite"]].concat(),
        0,
    );
    assert_eq!(names(&converted.join("imagesTr")), ["a_0000.nii.gz"]);
    assert_eq!(json(&converted.join("dataset.json"))["numTraining"], 1);
}

#[test]
fn a_second_run_converts_only_incomplete_cases() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_dataset(
        &at("data"),
        &[
            ("a", &[1, 3]),
            ("b", &[3]),
            ("c", &[1]),
            ("d", &[3]),
            ("e", &[3]),
        ],
    );
    let arguments = [
        "convert", "data", "-o", "raw", "--to", "nnunet", "--folds", "2",
    ];
    run(folder.path(), &arguments, 0);
    let converted = at("raw/Dataset500_data");
    let before = content(&converted);
    let kept = |expected: u64| {
        let summary = run_json(folder.path(), &[&arguments[..], &["--json"]].concat(), 0);
        assert_eq!(
            (&summary["kept"], &summary["training"]),
            (&json!(expected), &json!(5))
        );
        let after = content(&converted);
        let bytes = |all: &[(PathBuf, Vec<u8>, std::time::SystemTime)]| -> Vec<(PathBuf, Vec<u8>)> {
            let known = all
                .iter()
                .filter(|(path, ..)| !path.ends_with("converted.jsonl"));
            known
                .map(|(path, bytes, _)| (path.clone(), bytes.clone()))
                .collect()
        };
        assert!(
            bytes(&before) == bytes(&after),
            "the same dataset to the last byte"
        );
        after
    };
    let after = kept(5);
    let image = |all: &[(PathBuf, Vec<u8>, std::time::SystemTime)]| {
        let found = all
            .iter()
            .find(|(path, ..)| path.ends_with("imagesTr/a_0000.nii.gz"));
        found.unwrap().2
    };
    assert_eq!(image(&before), image(&after), "not written again");
    damage(&converted);
    kept(1);
    // A modified source is read again.
    write_map_on(&at("data/labels/d.nii.gz"), grid(), &[3]);
    kept(4);
}

/// Removes a file, truncates one, changes one at the same length, and truncates a line of the journal.
fn damage(converted: &Path) {
    fs::remove_file(converted.join("labelsTr/a.nii.gz")).unwrap();
    let path = converted.join("imagesTr/b_0000.nii.gz");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..20]).unwrap();
    let path = converted.join("labelsTr/c.nii.gz");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, &bytes).unwrap();
    let journal = converted.join("converted.jsonl");
    let text = fs::read_to_string(&journal).unwrap();
    let cut = text.find("\"case\":\"e\"").unwrap() + 30;
    fs::write(&journal, &text[..cut]).unwrap();
    fs::remove_file(converted.join("dataset.json")).unwrap();
}

#[test]
fn unsafe_case_names_are_replaced_and_reported() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_dataset(
        &at("data"),
        &[
            ("Köln 1", &[1]),
            ("case", &[1]),
            ("CASE", &[1]),
            ("x_0001", &[1]),
        ],
    );
    let summary = run_json(
        folder.path(),
        &["convert", "data", "-o", "raw", "--to", "nnunet", "--json"],
        0,
    );
    let expected = json!({"Köln 1": "K_ln_1", "case": "case_2"});
    assert_eq!(summary["renamed"], expected);
    let converted = at("raw/Dataset500_data");
    assert_eq!(
        names(&converted.join("imagesTr")),
        [
            "CASE_0000.nii.gz",
            "K_ln_1_0000.nii.gz",
            "case_2_0000.nii.gz",
            "x_0001_0000.nii.gz"
        ]
    );
    let journal = fs::read_to_string(converted.join("converted.jsonl")).unwrap();
    assert!(
        journal.contains(r#""case":"K_ln_1","id":"Köln 1""#),
        "{journal}"
    );
    assert_eq!(Dataset::open(&converted).unwrap().cases.len(), 4);
}

/// Requests a stop as soon as a case is done.
struct StopsAfterOne(std::sync::Arc<std::sync::atomic::AtomicBool>);

impl Observer for StopsAfterOne {
    fn info(&self, _: &str) {}
    fn warn(&self, _: &str) {}
    fn task(&self, _: &str, _: u64, _: &'static str) -> Box<dyn Task> {
        Box::new(Self(self.0.clone()))
    }
}

impl Task for StopsAfterOne {
    fn advance(&self, _: u64) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
    fn note(&self, _: &str) {}
}

#[test]
fn a_stopped_run_is_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let ids: Vec<String> = (0..60).map(|number| format!("c{number:02}")).collect();
    let cases: Vec<(&str, &[u16])> = ids.iter().map(|id| (id.as_str(), [1].as_slice())).collect();
    write_dataset(&at("data"), &cases);
    let (dataset, channels) = Dataset::open_channels(&at("data"), None, &[]).unwrap();
    let target =
        Target::resolve(Format::Msd, &at("tasks"), Requested::default(), &dataset).unwrap();
    let conversion = Conversion {
        source: at("data"),
        overlaps: Overlaps::default(),
        splits: Vec::new(),
        overwrite: false,
    };
    let stop = std::sync::Arc::default();
    let observer = StopsAfterOne(std::sync::Arc::clone(&stop));
    let ended = convert(&dataset, &channels, &target, &conversion, &observer, &stop);
    let error = ended.unwrap_err().to_string();
    assert!(
        error.starts_with("interrupted; ")
            && error.contains("run the same command again to resume"),
        "{error}"
    );
    let done = names(&target.folder.join("imagesTr")).len();
    assert!(done > 0 && done < 60, "{done}");
    assert!(!target.folder.join("dataset.json").exists());
    let stop = std::sync::atomic::AtomicBool::new(false);
    let converted = convert(&dataset, &channels, &target, &conversion, &Silent, &stop).unwrap();
    assert_eq!((converted.training, converted.kept), (60, done));
    assert_eq!(json(&target.folder.join("dataset.json"))["numTraining"], 60);
}
