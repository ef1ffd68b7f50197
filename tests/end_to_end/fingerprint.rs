//! The fingerprint of a dataset, compared with its files.

use crate::common::{phantoms, run_json};
use ctseg_base::progress::Silent;
use ctseg_core::dataset::Dataset;
use ctseg_core::dataset::fingerprint::Fingerprint;
use ctseg_image::space::Orientation;

#[test]
fn statistics_match_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = Dataset::open(&phantoms(folder.path(), 3, 1)).unwrap();
    let fingerprint = Fingerprint::of(&dataset, &Silent).unwrap();
    assert_eq!(fingerprint.cases.len(), 3, "test cases do not count");
    assert!(fingerprint.unreadable.is_empty());
    let (mut all, mut spacings) = (Vec::new(), Vec::new());
    for (case, facts) in dataset.training_cases().into_iter().zip(&fingerprint.cases) {
        let loaded = dataset.load(&dataset.cases[case]).unwrap();
        let ras = loaded.volume.grid.reoriented(Orientation::RAS);
        assert_eq!(
            (facts.shape, facts.spacing_mm),
            (ras.shape, ras.spacing_mm())
        );
        spacings.push(ras.spacing_mm()[2]);
        let pairs = loaded.labels.data.iter().zip(&loaded.volume.data);
        all.extend(
            pairs
                .filter(|(label, _)| **label > 0)
                .map(|(_, hu)| f64::from(hu.round())),
        );
        for structure in &dataset.structures {
            let voxels = loaded.labels.data.iter().filter(|l| **l == structure.value);
            let expected = voxels.count() as f64 * loaded.volume.grid.voxel_volume_ml();
            let found = facts
                .volumes_ml
                .get(&structure.name)
                .copied()
                .unwrap_or(0.0);
            assert!((found - expected).abs() < 1e-9, "{}", structure.name);
        }
        let mm = facts.foreground_mm.unwrap();
        assert!((0..3).all(|axis| {
            mm[axis] > 20.0 && mm[axis] <= ras.shape[axis] as f64 * ras.spacing_mm()[axis] + 1e-9
        }));
    }
    spacings.sort_by(f64::total_cmp);
    assert_eq!(fingerprint.median_spacing_mm[2], spacings[1]);
    all.sort_by(f64::total_cmp);
    let hu = fingerprint.foreground_hu.unwrap();
    assert_eq!(hu.voxels, all.len() as u64);
    let at = |percent: f64| {
        let at = percent / 100.0 * (all.len() - 1) as f64;
        let low = at.floor() as usize;
        all[low] + (at - low as f64) * (all[(low + 1).min(all.len() - 1)] - all[low])
    };
    for (found, expected) in [
        (hu.median, at(50.0)),
        (hu.percentile_00_5, at(0.5)),
        (hu.percentile_99_5, at(99.5)),
    ] {
        assert!((found - expected).abs() < 1e-9, "{found} for {expected}");
    }
}

#[test]
fn a_bad_case_is_listed_and_the_others_count() {
    let folder = tempfile::tempdir().unwrap();
    let descriptor = phantoms(folder.path(), 3, 0);
    let dataset = Dataset::open(&descriptor).unwrap();
    let bad = &dataset.cases[1];
    let bytes = std::fs::read(&bad.image).unwrap();
    std::fs::write(&bad.image, &bytes[..bytes.len() / 2]).unwrap();
    let fingerprint = Fingerprint::of(&dataset, &Silent).unwrap();
    assert_eq!(fingerprint.cases.len(), 2);
    assert_eq!(fingerprint.unreadable.len(), 1);
    assert_eq!(fingerprint.unreadable[0].0, bad.id);
    let value = run_json(
        folder.path(),
        &[
            "inspect",
            "--fingerprint",
            "--json",
            descriptor.to_str().unwrap(),
        ],
        0,
    );
    assert_eq!(value["fingerprint"]["cases"].as_array().unwrap().len(), 2);
    for case in &dataset.cases {
        std::fs::write(&case.image, b"nothing").unwrap();
    }
    let error = Fingerprint::of(&dataset, &Silent).unwrap_err().to_string();
    assert!(error.contains("none of 3 cases"), "{error}");
}
