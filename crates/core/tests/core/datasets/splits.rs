//! Predefined folds from a file.

use ctseg_base::progress::Observer;
use ctseg_base::progress::Silent;
use ctseg_base::progress::Task;
use ctseg_core::dataset::PredefinedSplits;
use ctseg_core::recipe::Recipe;

use super::*;

/// Cases `p1-a`, `p1-b`, `p2-a`, `p3-a`, `p4-a` in nnU-Net's layout below `root`; `x` is a test case.
fn nnunet(root: &Path) {
    write_text(
        &root.join("dataset.json"),
        r#"{"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "numTraining": 5, "file_ending": ".nii.gz"}"#,
    );
    for case in ["p1-a", "p1-b", "p2-a", "p3-a", "p4-a"] {
        write_image(&root.join(format!("imagesTr/{case}_0000.nii.gz")));
        write_map(&root.join(format!("labelsTr/{case}.nii.gz")), &[1]);
    }
    write_image(&root.join("imagesTs/x_0000.nii.gz"));
}

const FOLDS: &str = r#"[{"train": ["p2-a", "p3-a", "p4-a"], "val": ["p1-b", "p1-a"]},
    {"train": ["p1-a", "p1-b", "p3-a"], "val": ["p2-a"]}, {"train": ["p1-a", "p1-b", "p2-a"], "val": ["p4-a", "p3-a"]}]"#;

fn recipe(set: &[&str]) -> Recipe {
    let set: Vec<String> = set.iter().map(|text| (*text).to_owned()).collect();
    Recipe::named("1", &set).unwrap()
}

/// Records messages and warnings.
#[derive(Default)]
struct Recorded(std::sync::Mutex<Vec<String>>);

impl Observer for Recorded {
    fn info(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
    fn warn(&self, line: &str) {
        self.0.lock().unwrap().push(format!("warning: {line}"));
    }
    fn task(&self, _: &str, _: u64, _: &'static str) -> Box<dyn Task> {
        Box::new(Silent)
    }
}

#[test]
fn predefined_folds_of_the_dataset_are_used() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    nnunet(root);
    // With a byte order mark, as written by Windows editors.
    write_text(&root.join("splits_final.json"), &format!("\u{feff}{FOLDS}"));
    let mut dataset = Dataset::open(root).unwrap();
    let recorded = Recorded::default();
    let recipe = dataset
        .use_predefined_splits(recipe(&["folds=5"]), None, &recorded)
        .unwrap();
    assert_eq!(recipe.folds, 3);
    let recorded = recorded.0.into_inner().unwrap();
    assert_eq!(recorded.len(), 1, "{recorded:?}");
    assert!(
        recorded[0].starts_with("using the 3 folds of ")
            && recorded[0].ends_with("splits_final.json instead of the recipe's 5"),
        "{recorded:?}"
    );
    let split = dataset.split(3, 0, 7).unwrap();
    assert_eq!((split.train, split.validation), (vec![2, 3, 4], vec![0, 1]));
    let error = dataset.split(3, 3, 7).unwrap_err().to_string();
    assert!(error.contains("has no fold 3; expected 0 to 2"), "{error}");

    // A run stores them and does not depend on the file.
    let run = root.join("run");
    assert_eq!(PredefinedSplits::of_run(&run).unwrap(), None);
    PredefinedSplits::store(&run, &dataset.named_splits(3, 7).unwrap()).unwrap();
    write_text(&root.join("splits_final.json"), "[]");
    let mut again = Dataset::open(root).unwrap();
    again.splits = PredefinedSplits::of_run(&run).unwrap();
    for fold in 0..3 {
        assert_eq!(
            again.split(3, fold, 1).unwrap(),
            dataset.split(3, fold, 1).unwrap()
        );
    }
    // A case that is missing later does not shift the others.
    fs::remove_file(root.join("imagesTr/p4-a_0000.nii.gz")).unwrap();
    let mut less = Dataset::open(root).unwrap();
    less.splits = PredefinedSplits::of_run(&run).unwrap();
    let error = less.split(3, 0, 1).unwrap_err().to_string();
    assert!(error.contains("names case 'p4-a'"), "{error}");
}

#[test]
fn nnunets_own_folds_are_found_in_its_preprocessed_folder() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("nnUNet_raw/Dataset007_Liver");
    nnunet(&root);
    let dataset = Dataset::open(&root).unwrap();
    let given = |preprocessed: Option<&Path>| dataset.predefined_splits(preprocessed).unwrap();
    assert_eq!(given(None), None);
    let beside = folder
        .path()
        .join("nnUNet_preprocessed/Dataset007_Liver/splits_final.json");
    write_text(&beside, FOLDS);
    let found = given(None).unwrap();
    assert_eq!((found.0.folds.len(), found.1), (3, vec![]));
    // The folder in nnU-Net's variable has precedence over it, and the dataset's own file over both.
    let elsewhere = folder.path().join("elsewhere");
    let one = r#"[{"train": ["p1-a", "p1-b", "p2-a", "p3-a"], "val": ["p4-a"]}]"#;
    write_text(&elsewhere.join("Dataset007_Liver/splits_final.json"), one);
    let (found, notes) = given(Some(&elsewhere)).unwrap();
    assert_eq!(found.folds.len(), 1);
    assert!(
        notes.len() == 1 && notes[0].contains("has other folds than"),
        "{notes:?}"
    );
    write_text(&root.join("splits_final.json"), one);
    let (found, _) = given(None).unwrap();
    assert_eq!(found.file, root.join("splits_final.json"));
}

#[test]
fn invalid_folds_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    nnunet(root);
    let dataset = Dataset::open(root).unwrap();
    let refused = |text: &str| {
        write_text(&root.join("splits_final.json"), text);
        let text = dataset.predefined_splits(None).unwrap_err().to_string();
        assert!(
            !text.contains('\n') && text.contains("splits_final.json: "),
            "{text}"
        );
        text
    };
    let changed = |from: &str, to: &str| {
        assert!(FOLDS.contains(from));
        FOLDS.replacen(from, to, 1)
    };
    let text = refused(&changed("\"p2-a\", \"p3-a\"", "\"p22-a\", \"p3-a\""));
    assert!(
        text.contains("fold 0 names case 'p22-a', which is not in the dataset (nearest: p2-a)"),
        "{text}"
    );
    assert!(refused(&changed("\"p2-a\"", "\"x\"")).contains("'x', which is a test case"));
    let text = refused(&changed("[\"p2-a\", ", "[\"p1-a\", \"p2-a\", "));
    assert!(
        text.contains("fold 0 has case 'p1-a' both in train and in val"),
        "{text}"
    );
    let text = refused(&changed("[\"p2-a\", ", "[\"p2-a\", \"p2-a\", "));
    assert!(
        text.contains("fold 0 names case 'p2-a' twice in train"),
        "{text}"
    );
    assert!(refused(&changed("[\"p2-a\"]", "[]")).contains("fold 1 has no cases in val"));
    assert!(refused("[]").contains("names no folds"));
    assert!(refused("{\"train\": []}").contains("not in nnU-Net's splits format"));
    assert!(refused("[{\"train\": [\"p1-a\"]}]").contains("missing field `val`"));
    write_text(&root.join("splits_final.json"), FOLDS);
    let mut dataset = Dataset::open(root).unwrap();
    let error =
        dataset.use_predefined_splits(recipe(&["folds=5", "train_folds=[3]"]), None, &Silent);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("train_folds names fold 3"), "{error}");
}

#[test]
fn a_patient_in_both_sets_is_refused_if_a_descriptor_defines_patients() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    nnunet(root);
    let leaking = FOLDS.replacen("\"p1-b\", \"p1-a\"", "\"p1-a\"", 1);
    let leaking = leaking.replacen("[\"p2-a\"", "[\"p1-b\", \"p2-a\"", 1);
    write_text(&root.join("splits_final.json"), &leaking);
    let given = |dataset: &Dataset| dataset.predefined_splits(None);
    // For nnU-Net each case is a patient.
    assert!(given(&Dataset::open(root).unwrap()).is_ok());
    let descriptor = "name = \"s\"\nimages = \"imagesTr/*_0000.nii.gz\"\nlabels = \"labelsTr/{case}.nii.gz\"\npatient_delimiter = \"-\"\n[structures]\nliver = 1\n";
    write_text(&root.join("dataset.toml"), descriptor);
    let text = given(&Dataset::open(root).unwrap())
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("patient 'p1' is in both sets of fold 0, with case 'p1-b' in train and case 'p1-a' in val"),
        "{text}"
    );
}

#[test]
fn cases_in_no_fold_or_in_several_validation_sets_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    nnunet(root);
    let text = r#"[{"train": ["p1-a", "p1-b"], "val": ["p2-a"]}, {"train": ["p1-a"], "val": ["p2-a", "p3-a"]}]"#;
    write_text(&root.join("splits_final.json"), text);
    let dataset = Dataset::open(root).unwrap();
    let (_, notes) = dataset.predefined_splits(None).unwrap().unwrap();
    let expected = [
        (
            "1 training case in no fold of ",
            "used neither for training nor for validation: p4-a",
        ),
        ("2 training cases in no validation set of ", ": p1-a, p1-b"),
        ("1 training case in several validation sets of ", ": p2-a"),
    ];
    assert_eq!(notes.len(), expected.len(), "{notes:?}");
    for (note, (start, end)) in notes.iter().zip(expected) {
        assert!(note.starts_with(start) && note.ends_with(end), "{note}");
    }
}
