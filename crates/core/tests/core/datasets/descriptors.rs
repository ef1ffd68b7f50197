//! TOML descriptors.

use super::*;

const PLAIN: &str = r#"
name = "two"
licence = "CC0"
root = "data"
images = "images/*.nii.gz"
labels = "labels/{case}.nii.gz"
test = ["c1"]
[structures]
background = 0
liver = 2
spleen = 1
"#;

fn open_text(folder: &Path, text: &str) -> ctseg_base::Result<Dataset> {
    write_text(&folder.join("set.toml"), text);
    Dataset::open(&folder.join("set.toml"))
}

#[test]
fn patterns_structures_and_test_cases() {
    let folder = tempfile::tempdir().unwrap();
    plain(&folder.path().join("data"), &[&[1, 2], &[2], &[1]]);
    let dataset = open_text(folder.path(), PLAIN).unwrap();
    assert_eq!(
        (dataset.name.as_str(), dataset.layout),
        ("two", Layout::Descriptor)
    );
    assert_eq!(names(&dataset), [(1, "spleen"), (2, "liver")]);
    assert_eq!(
        (ids(&dataset), &dataset.test[..]),
        (vec!["c0", "c1", "c2"], &["c1".to_owned()][..])
    );
    assert_eq!(dataset.training_cases(), [0, 2]);
    assert_eq!(problems(&check(&dataset)), [""; 0]);
    // A test case does not need labels, a training case does.
    fs::remove_file(folder.path().join("data/labels/c1.nii.gz")).unwrap();
    let dataset = open_text(folder.path(), PLAIN).unwrap();
    assert_eq!(dataset.cases[1].labels, LabelSource::None);
    assert_eq!(problems(&check(&dataset)), [""; 0]);
}

#[test]
fn the_data_root_replaces_the_descriptors_folder() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    plain(&there.path().join("data"), &[&[1], &[1]]);
    let text = open_text(here.path(), PLAIN).unwrap_err().to_string();
    assert!(
        text.contains("set.toml: the dataset's root") && text.contains("data root"),
        "{text}"
    );
    let set = here.path().join("set.toml");
    let dataset = Dataset::open_in(&set, Some(there.path())).unwrap();
    assert_eq!(
        dataset.cases[0].image,
        there.path().join("data/images/c0.nii.gz")
    );
    // A dataset.toml in a folder describes the folder.
    write_text(
        &there.path().join("data/dataset.toml"),
        &PLAIN.replace("root = \"data\"", ""),
    );
    let dataset = Dataset::open(&there.path().join("data")).unwrap();
    assert_eq!(
        (dataset.layout, dataset.name.as_str()),
        (Layout::Descriptor, "two")
    );
}

#[test]
fn one_folder_per_case() {
    let folder = tempfile::tempdir().unwrap();
    for case in ["STS_1", "STS_2"] {
        write_image(&folder.path().join(case).join("CT_image.nii.gz"));
        write_map(&folder.path().join(case).join("CT_mask.nii.gz"), &[1]);
    }
    let text = "name = \"s\"\nimages = \"*/CT_image.nii.gz\"\nlabels = \"{case}/CT_mask.nii.gz\"\n[structures]\ntumour = 1\n";
    let dataset = open_text(folder.path(), text).unwrap();
    assert_eq!(ids(&dataset), ["STS_1", "STS_2"]);
    assert_eq!(problems(&check(&dataset)), [""; 0]);
}

#[test]
fn labels_in_the_image_folder_are_not_images() {
    let folder = tempfile::tempdir().unwrap();
    for case in ["a", "b"] {
        write_image(&folder.path().join(format!("{case}.nii.gz")));
        write_map(&folder.path().join(format!("{case}_seg.nii.gz")), &[1]);
    }
    let text = "name = \"s\"\nimages = \"*.nii.gz\"\nlabels = \"{case}_seg.nii.gz\"\n[structures]\nt = 1\n";
    let dataset = open_text(folder.path(), text).unwrap();
    assert_eq!(ids(&dataset), ["a", "b"]);
    assert_eq!(problems(&check(&dataset)), [""; 0]);
}

#[test]
fn masks_become_labels_with_the_values_in_the_descriptor() {
    let folder = tempfile::tempdir().unwrap();
    write_image(&folder.path().join("p/ct.nii.gz"));
    for (name, labels) in [("liver", [1, 0]), ("spleen", [0, 1]), ("vein", [1, 1])] {
        write_map(&folder.path().join(format!("p/seg/{name}.nii.gz")), &labels);
    }
    let text = "name = \"s\"\nimages = \"*/ct.nii.gz\"\nlabels = \"{case}/seg/{structure}.nii.gz\"\n[structures]\nspleen = 5\nliver = 9\n";
    let dataset = open_text(folder.path(), text).unwrap();
    let labels: Vec<u16> = dataset
        .load_labels(&dataset.cases[0])
        .unwrap()
        .data
        .into_iter()
        .take(3)
        .collect();
    assert_eq!(labels, [9, 5, 0]);
}

#[test]
fn patients_by_delimiter_table_and_listed_case() {
    let folder = tempfile::tempdir().unwrap();
    for case in ["p1-a", "p1-b", "q", "p2-a"] {
        write_image(&folder.path().join(format!("images/{case}.nii.gz")));
        write_map(&folder.path().join(format!("labels/{case}.nii.gz")), &[1]);
    }
    let text = "name = \"s\"\nimages = \"images/*.nii.gz\"\nlabels = \"labels/{case}.nii.gz\"\npatient_delimiter = \"-\"\n[structures]\nx = 1\n[patients]\np2-a = \"p1\"\n";
    let dataset = open_text(folder.path(), text).unwrap();
    let patients: Vec<_> = dataset
        .cases
        .iter()
        .map(|c| (c.id.as_str(), c.patient.as_str()))
        .collect();
    assert_eq!(
        patients,
        [("p1-a", "p1"), ("p1-b", "p1"), ("p2-a", "p1"), ("q", "q")]
    );
    let split = dataset.split(2, 0, 1).unwrap();
    let sets: BTreeSet<Vec<usize>> = [split.train, split.validation].into();
    assert_eq!(sets, BTreeSet::from([vec![0, 1, 2], vec![3]]));
    assert!(
        dataset
            .split(2, 2, 1)
            .unwrap_err()
            .to_string()
            .contains("no fold 2")
    );
    assert!(
        dataset
            .split(3, 0, 1)
            .unwrap_err()
            .to_string()
            .contains("2 patients")
    );
    // A patient in both training and test set is a leak.
    let leaking = text.replace("patient_delimiter", "test = [\"p1-a\"]\npatient_delimiter");
    let found = problems(&check(&open_text(folder.path(), &leaking).unwrap()));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().all(|p| {
        p.contains("patient 'p1' is in training here and in the test set as case 'p1-a'")
    }));
    let listed = "name = \"s\"\n[structures]\nx = 1\n[cases.one]\nimage = \"images/q.nii.gz\"\nlabels = \"labels/q.nii.gz\"\npatient = \"P\"\n";
    let dataset = open_text(folder.path(), listed).unwrap();
    assert_eq!(
        (ids(&dataset), dataset.cases[0].patient.as_str()),
        (vec!["one"], "P")
    );
    assert_eq!(problems(&check(&dataset)), [""; 0]);
}

#[test]
fn errors_name_their_position() {
    let folder = tempfile::tempdir().unwrap();
    plain(&folder.path().join("data"), &[&[1], &[1]]);
    let refused = |from: &str, to: &str| {
        assert!(PLAIN.contains(from));
        write_text(&folder.path().join("set.toml"), &PLAIN.replace(from, to));
        refusal(&folder.path().join("set.toml"))
    };
    let text = refused("licence", "lisence");
    assert!(
        text.contains("line 3") && text.contains("lisence"),
        "{text}"
    );
    assert!(refused("spleen = 1", "spleen = 70000").contains("70000"));
    assert!(refused("spleen = 1", "spleen = 2").contains("both have the value 2"));
    assert!(refused("spleen = 1", "spleen = 0").contains("which is background"));
    assert!(
        refused("[\"c1\"]", "[\"c01\"]").contains("case 'c01', which is not among the 2 cases")
    );
    assert!(refused("images/*", "images/x").contains("no placeholder for the case id"));
    assert!(refused("images = \"images/*.nii.gz\"", "").contains("names no cases"));
    assert!(
        refused("[structures]", "[cases.x]\nimage = \"i\"\n[structures]")
            .contains("one of the two")
    );
    assert!(
        refused("[structures]", "[patients]\nz = \"p\"\n[structures]").contains("not among the")
    );
    assert!(
        refused("test =", "patient_delimiter = \"\"\ntest =")
            .contains("patient_delimiter is empty")
    );
    let text = open_text(folder.path(), &PLAIN.replace("images/*", "image/*"))
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("data/image: cannot list the folder"),
        "{text}"
    );
    assert!(refused("name = \"two\"", "name = \"two").contains("line 2"));
}
