//! Regions found by a rough model: only the necessary parts run, and nothing is lost silently.

use super::*;

#[test]
fn chosen_structures_run_only_the_necessary_parts_in_their_region() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    publish_total(here, 20.0);
    save(&here.join("scans/case.nii.gz"), &scan());
    // A part that is not needed is not opened.
    fs::rename(here.join("model/rest"), here.join("rest")).unwrap();
    assert_eq!(counts(here, &["--structures", "liver"]), (1, 0));
    assert_eq!(
        differing(&found(here, "case"), &labelled(&scan(), &[(LIVER, 1)])),
        0
    );
    let first = sidecar(here, "case");
    assert_eq!(first["cascade"]["parts"], serde_json::json!(["organs"]));
    assert_eq!(first["structures"], serde_json::json!({"liver": 1}));
    assert_eq!(first["only_chosen"], true);
    // The liver spans (4, 4, 4) to (14, 12, 12), aligned with the rough grid; 20 mm are 5 voxels, clamped to 0.
    let roi = serde_json::json!({"start": [0, 0, 0], "end": [19, 17, 17]});
    assert_eq!(first["cascade"]["roi"], roi);
    let share = first["cascade"]["roi_share"].as_f64().unwrap();
    assert!((share - (19 * 17 * 17) as f64 / (40 * 36 * 44) as f64).abs() < 1e-12);
    assert!(first["cascade"]["seconds"]["rough"].as_f64().is_some());
    let refused = predict(here, &[], 1);
    assert!(refused.contains("model/rest"), "{refused}");
    fs::rename(here.join("rest"), here.join("model/rest")).unwrap();
    // A result for one choice does not count for another.
    assert_eq!(counts(here, &["--structures", "liver"]), (0, 1));
    assert_eq!(counts(here, &["--structures", "heart,core"]), (1, 0));
    let expected = labelled(&scan(), &[(HEART, 3), (CORE, 5)]);
    assert_eq!(differing(&found(here, "case"), &expected), 0);
    assert_eq!(
        sidecar(here, "case")["cascade"]["parts"],
        serde_json::json!(["rest"])
    );
    // Choosing all structures by name still uses the rough model.
    fs::write(
        here.join("all.txt"),
        "# all\nliver\nspleen\n\nheart\nbone\ncore\n",
    )
    .unwrap();
    assert_eq!(counts(here, &["--structures", "@all.txt"]), (1, 0));
    assert!(!sidecar(here, "case")["cascade"]["roi"].is_null());
    assert_eq!(counts(here, &[]), (1, 0));
    assert_eq!(
        differing(&found(here, "case"), &labelled(&scan(), &TRUTH)),
        0
    );
}

#[test]
fn an_empty_rough_region_falls_back_to_the_whole_volume_with_a_note() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    // A rough model that never finds liver.
    let without_liver =
        ROUGH.map(|(label, name, hu)| (label, name, if name == "liver" { 1e6 } else { hu }));
    publish_with(here, (&without_liver, 4.0), &|_| {}).unwrap();
    let grid = Grid::with_spacing([40, 36, 44], [4.0; 3]);
    let volume = boxes_in(
        grid,
        &[
            (place([28, 28, 28], [31, 31, 31]), LIVER),
            (place([4, 4, 4], [12, 12, 12]), HEART),
        ],
    );
    save(&here.join("scans/case.nii.gz"), &volume);
    let log = predict(here, &["--structures", "bone"], 0);
    assert!(log.contains("did not find bone; the whole volume"), "{log}");
    let log = predict(here, &["--structures", "liver"], 0);
    assert!(
        log.contains("did not find liver; the whole volume"),
        "{log}"
    );
    assert_eq!(
        differing(&found(here, "case"), &labelled(&volume, &[(LIVER, 1)])),
        0
    );
    assert_eq!(sidecar(here, "case")["cascade"]["roi_share"], 1.0);
    let log = predict(here, &["--structures", "bone,heart"], 0);
    assert!(log.contains("did not find bone; only the region"), "{log}");
    let notes = sidecar(here, "case")["notes"].to_string();
    assert!(notes.contains("did not find bone"), "{notes}");
    assert_eq!(
        differing(&found(here, "case"), &labelled(&volume, &[(HEART, 3)])),
        0
    );
}

#[test]
fn a_coarse_rough_model_gives_the_region_in_voxels_of_the_volume() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    publish_with(here, (&ROUGH, 12.0), &|_| {}).unwrap();
    // Spacings and a shape that are no multiples of a coarse voxel.
    let grid = Grid::with_spacing([41, 50, 29], [4.3, 3.1, 5.7]);
    let liver = place([11, 30, 9], [25, 44, 17]);
    save(
        &here.join("scans/case.nii.gz"),
        &boxes_in(grid, &[(liver, LIVER)]),
    );
    assert_eq!(counts(here, &["--structures", "liver"]), (1, 0));
    let map = found(here, "case");
    let roi = sidecar(here, "case")["cascade"]["roi"].clone();
    let roi: VoxelBox = serde_json::from_value(roi).unwrap();
    for (axis, spacing_mm) in grid.spacing_mm().into_iter().enumerate() {
        let limit = grid.shape[axis] as f64;
        // 20 mm of margin, within half a coarse voxel.
        let margin = 20.0 / spacing_mm;
        let start = (liver.start[axis] as f64 - margin).max(0.0);
        let end = (liver.end[axis] as f64 + margin).min(limit);
        for (edge, expected) in [(roi.start[axis], start), (roi.end[axis], end)] {
            let off = (edge as f64 - expected).abs() * spacing_mm;
            assert!(
                off <= 6.0 + spacing_mm,
                "axis {axis}: {roi:?}, {off} mm off"
            );
        }
    }
    let truth = boxes_in(grid, &[(liver, LIVER)]);
    let wrong = differing(&map, &labelled(&truth, &[(LIVER, 1)]));
    assert!(
        wrong * 4 < liver.voxels(),
        "{wrong} of {} voxels",
        liver.voxels()
    );
}

#[test]
fn volumes_in_any_orientation_are_cropped_and_merged_the_same_way() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    publish_total(here, 9.0);
    let orientations = ["RAS", "LPS", "PIR", "SLA", "IAL", "ASR"];
    for orientation in orientations {
        let grid = scan().grid.reoriented(orientation.parse().unwrap());
        let turned = resample(&scan(), &grid, Interpolation::Nearest).unwrap();
        save(&here.join(format!("scans/{orientation}.nii")), &turned);
    }
    assert_eq!(
        counts(here, &["--structures", "heart,bone"]),
        (orientations.len(), 0)
    );
    for orientation in orientations {
        let turned = read_volume(&here.join(format!("scans/{orientation}.nii")))
            .unwrap()
            .volume;
        let map = read_labels(&here.join(format!("out/{orientation}.nii")))
            .unwrap()
            .1;
        let expected = labelled(&turned, &[(HEART, 3), (BONE, 300)]);
        assert_eq!(differing(&map, &expected), 0, "{orientation}");
        assert!(map.grid.same_as(&turned.grid, 1e-4));
        let share = sidecar(here, orientation)["cascade"]["roi_share"].clone();
        assert_eq!(share, sidecar(here, "RAS")["cascade"]["roi_share"]);
        assert!(share.as_f64().unwrap() < 0.3, "{share}");
    }
}

#[test]
fn a_task_that_is_always_cropped_only_sees_its_region() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let path = here.join("model");
    // Vessels (with the HU of bone) are segmented around the heart, which a rough model of two parts finds.
    MultiPartModel::publish(&path, |folder| {
        publish_levels(
            &folder.join("vessels"),
            &[(1, "vessels", 900.0), (2, "rest", 600.0)],
            4.0,
        );
        MultiPartModel::publish(&folder.join("rough"), |inner| {
            publish_levels(&inner.join("organs"), &ORGANS, 4.0);
            publish_levels(&inner.join("rest"), &REST, 4.0);
            let mut rough = total(0.0);
            rough.rough = None;
            Ok(rough)
        })?;
        let by = rough(When::Always, 9.0, &[("*", &["heart"])]);
        Ok(manifest(
            &[(1, "vessels")],
            &[("vessels", &[(1, 1)])],
            Some(by),
        ))
    })
    .unwrap();
    let grid = Grid::with_spacing([40, 36, 44], [4.0; 3]);
    let near = place([18, 20, 28], [20, 24, 34]);
    let far = place([2, 2, 2], [6, 6, 6]);
    let heart = place([16, 20, 20], [24, 28, 28]);
    let volume = boxes_in(grid, &[(heart, HEART), (near, BONE), (far, BONE)]);
    save(&here.join("scans/case.nii.gz"), &volume);
    assert_eq!(counts(here, &[]), (1, 0));
    let map = found(here, "case");
    // 2 voxels (9 mm) around the heart, which reaches to z = 28.
    assert_eq!(
        map.bounding_box(|label| label == 1).unwrap(),
        place([18, 20, 28], [20, 24, 30])
    );
    let output = run(here, &["inspect", "model"], 0);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("locates heart for every volume"), "{text}");
    // Without a heart the whole volume is used.
    save(
        &here.join("scans/case.nii.gz"),
        &boxes_in(grid, &[(far, BONE)]),
    );
    assert_eq!(counts(here, &["--overwrite"]), (1, 0));
    assert_eq!(
        found(here, "case").bounding_box(|label| label == 1),
        Some(far)
    );
}
