//! The descriptors that are shipped with ctseg, and folds that must never change.

use super::*;

fn descriptor(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .join("datasets")
        .join(name)
}

/// The folder with the real data, if it is available.
fn data() -> Option<PathBuf> {
    let data = std::env::var_os("CTSEG_TEST_DATA").map(PathBuf::from);
    if data.is_none() {
        eprintln!("skipped: CTSEG_TEST_DATA does not name the data folder");
    }
    data
}

#[test]
fn headneck_is_valid_and_its_folds_are_stable() {
    let Some(data) = data() else { return };
    let dataset = Dataset::open_in(&descriptor("headneck.toml"), Some(&data)).unwrap();
    assert_eq!(
        (
            dataset.cases.len(),
            dataset.structures.len(),
            dataset.test.len()
        ),
        (32, 5, 6)
    );
    let report = dataset.check(CheckDepth::Voxels, |_, _| {});
    assert_eq!(problems(&report), [""; 0]);
    assert!(
        report.notes.iter().all(|note| note.case.is_some()),
        "{:?}",
        notes(&report)
    );
    assert_eq!(dataset.training_cases().len(), 26);
    let validation: Vec<Vec<&str>> = (0..5)
        .map(|fold| {
            let split = dataset.split(5, fold, 0).unwrap();
            assert_eq!(split.train.len() + split.validation.len(), 26);
            split
                .validation
                .iter()
                .map(|index| dataset.cases[*index].id.as_str())
                .collect()
        })
        .collect();
    assert_eq!(validation, HEADNECK_FOLDS);
    let case = dataset.load(&dataset.cases[0]).unwrap();
    assert_eq!(case.volume.grid.shape, [128; 3]);
    let present: BTreeSet<u16> = case.labels.data.iter().copied().collect();
    assert_eq!(present, (0..=5).collect());
}

/// Five folds with seed 0, from make_folds.py in this folder. A change would validate a model on cases that it was
/// trained on before the change.
const HEADNECK_FOLDS: [&[&str]; 5] = [
    &[
        "kbp_004", "kbp_013", "kbp_017", "kbp_087", "kbp_095", "kbp_193",
    ],
    &["kbp_012", "kbp_060", "kbp_061", "kbp_072", "kbp_141"],
    &["kbp_002", "kbp_041", "kbp_082", "kbp_096", "kbp_122"],
    &["kbp_024", "kbp_025", "kbp_083", "kbp_148", "kbp_151"],
    &["kbp_034", "kbp_099", "kbp_119", "kbp_133", "kbp_139"],
];

#[test]
fn folds_do_not_change_between_versions() {
    let cases: Vec<_> = (0..7)
        .map(|c| (format!("c{c}"), format!("p{}", c / 2)))
        .collect();
    assert_eq!(
        folds(&cases, 3, 42).unwrap(),
        [vec![4, 5, 6], vec![0, 1], vec![2, 3]]
    );
    let mut cases: Vec<_> = HEADNECK_FOLDS
        .concat()
        .into_iter()
        .map(|id| (id.to_owned(), id.to_owned()))
        .collect();
    cases.sort();
    let found = folds(&cases, 5, 0).unwrap();
    let found = found
        .iter()
        .map(|set| set.iter().map(|i| cases[*i].0.as_str()).collect());
    assert_eq!(found.collect::<Vec<Vec<_>>>(), HEADNECK_FOLDS);
}

#[test]
fn the_descriptors_are_valid_without_their_data() {
    let root = tempfile::tempdir().unwrap();
    for case in ["168", "172", "173", "180", "185", "187", "002"] {
        write_image(
            &root
                .path()
                .join(format!("headneck/images/kbp_{case}.nii.gz")),
        );
    }
    write_image(&root.path().join("sarcoma/STS_002/CT_image.nii.gz"));
    write_image(&root.path().join("totalseg/example_ct.nii.gz"));
    let open = |name: &str| Dataset::open_in(&descriptor(name), Some(root.path())).unwrap();
    let headneck = open("headneck.toml");
    let structures = [
        "brainstem",
        "spinal_cord",
        "parotid_right",
        "parotid_left",
        "mandible",
    ];
    assert_eq!(names(&headneck), (1..).zip(structures).collect::<Vec<_>>());
    assert_eq!(
        (headneck.training_cases(), headneck.test.len()),
        (vec![0], 6)
    );
    let sarcoma = open("sarcoma.toml");
    let mask = root.path().join("sarcoma/STS_002/CT_mask.nii.gz");
    assert_eq!(sarcoma.cases[0].labels, LabelSource::Map(mask));
    assert_eq!(names(&sarcoma), [(1, "tumour")]);
    let totalseg = open("totalseg.toml");
    assert_eq!(totalseg.cases[0].patient, totalseg.cases[1].patient);
    assert_eq!(names(&totalseg)[116], (117, "costal_cartilages"));
}

#[test]
fn sarcoma_and_totalseg_are_valid() {
    let Some(data) = data() else { return };
    for (name, cases, structures) in [("sarcoma.toml", 8, 1), ("totalseg.toml", 2, 117)] {
        let dataset = Dataset::open_in(&descriptor(name), Some(&data)).unwrap();
        assert_eq!(
            (dataset.cases.len(), dataset.structures.len()),
            (cases, structures),
            "{name}"
        );
        assert_eq!(problems(&check(&dataset)), [""; 0], "{name}");
    }
}
