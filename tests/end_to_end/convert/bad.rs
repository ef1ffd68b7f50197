//! Datasets with bad cases.

use super::*;

/// The listed failures: (file name of the input, reason).
fn failures(folder: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(folder.join("failures.jsonl")).unwrap();
    let line = |line: &str| {
        let failure: Value = serde_json::from_str(line).unwrap();
        let input = Path::new(failure["input"].as_str().unwrap()).to_owned();
        let name = input.file_name().unwrap().to_str().unwrap().to_owned();
        (name, failure["reason"].as_str().unwrap().to_owned())
    };
    text.lines().map(line).collect()
}

/// Seven cases; all but the first and last are bad, each for another reason.
fn write_mixed(root: &Path) {
    let mark: &[u16] = &[0, 1, 2];
    write_dataset(
        root,
        &[
            ("a", mark),
            ("cut", mark),
            ("known", mark),
            ("moved", mark),
            ("real", mark),
            ("shape", mark),
            ("z", &[]),
        ],
    );
    fs::write(
        root.join("dataset.toml"),
        "name = \"mixed\"\nimages = \"images/*.nii.gz\"\nlabels = \"labels/{case}.nii.gz\"\n[structures]\nliver = 1\nspleen = 2\n",
    )
    .unwrap();
    let image = root.join("images/cut.nii.gz");
    let whole = fs::read(&image).unwrap();
    fs::write(&image, &whole[..whole.len() - 9]).unwrap();
    write_map_on(&root.join("labels/known.nii.gz"), grid(), &[1, 7, 7]);
    let mut moved = grid();
    moved.affine[0][3] = 3.0;
    write_map_on(&root.join("labels/moved.nii.gz"), moved, mark);
    let half = Volume {
        grid: grid(),
        data: Array3::from_elem(grid().shape_zyx(), 0.5),
    };
    write_volume(&root.join("labels/real.nii.gz"), &half, VoxelType::F32).unwrap();
    write_map_on(
        &root.join("labels/shape.nii.gz"),
        Grid::with_spacing([4, 4, 3], [1.0; 3]),
        mark,
    );
    write_image_on(&root.join("images/unlabelled.nii.gz"), grid(), 0.0);
    write_map_on(&root.join("labels/stray.nii.gz"), grid(), mark);
}

#[test]
fn bad_cases_are_listed_and_the_others_converted() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_mixed(&at("data"));
    let check = convert(folder.path(), "data --to nnunet --check", 3);
    assert!(
        String::from_utf8_lossy(&check.stdout)
            .contains("2 training cases and 0 test cases without problems; 7 problems, see above")
    );
    assert_eq!(names(folder.path()), ["data"], "a check writes nothing");
    let log = stderr(&convert(folder.path(), "data --to nnunet -o raw", 3));
    assert_eq!(log, stderr(&check));
    let converted = at("raw/Dataset500_mixed");
    let listed = failures(&converted);
    for (name, reason) in [
        ("stray.nii.gz", "is a label file without an image"),
        ("cut.nii.gz", "images/cut.nii.gz: truncated gzip data"),
        (
            "known.nii.gz",
            "labels/known.nii.gz: unknown label value 7 (2 voxels)",
        ),
        (
            "moved.nii.gz",
            "labels/moved.nii.gz: the labels differ in position, by up to 3.000 mm,",
        ),
        (
            "real.nii.gz",
            "labels/real.nii.gz: holds 0.5 at voxel [0, 0, 0]",
        ),
        (
            "shape.nii.gz",
            "labels/shape.nii.gz: the labels differ in shape",
        ),
        (
            "unlabelled.nii.gz",
            "labels/unlabelled.nii.gz: does not exist",
        ),
    ] {
        let found = listed.iter().find(|(input, _)| input == name);
        let found = found.unwrap_or_else(|| panic!("{name} in {listed:?}"));
        assert!(
            found.1.contains(reason) && !found.1.contains('\n'),
            "{found:?}"
        );
        assert!(log.contains(&format!("failed: {}", found.1)), "{log}");
    }
    assert_eq!(listed.len(), 7);
    assert!(log.contains("z: no voxel is labelled"), "{log}");
    assert_eq!(
        names(&converted.join("imagesTr")),
        ["a_0000.nii.gz", "z_0000.nii.gz"]
    );
    assert_eq!(names(&converted.join("labelsTr")), ["a.nii.gz", "z.nii.gz"]);
    assert_eq!(json(&converted.join("dataset.json"))["numTraining"], 2);
    nnunet_accepts(&converted);
}

#[test]
fn a_repaired_case_is_added_and_a_damaged_one_removed() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_mixed(&at("data"));
    run(
        folder.path(),
        &["convert", "data", "--to", "msd", "-o", "tasks"],
        3,
    );
    for bad in ["cut", "known", "moved", "real", "shape", "unlabelled"] {
        write_image_on(&at(&format!("data/images/{bad}.nii.gz")), grid(), 5.0);
        write_map_on(&at(&format!("data/labels/{bad}.nii.gz")), grid(), &[2]);
    }
    fs::remove_file(at("data/labels/stray.nii.gz")).unwrap();
    write_map_on(&at("data/labels/a.nii.gz"), grid(), &[9]);
    let summary = run_json(
        folder.path(),
        &["convert", "data", "--to", "msd", "-o", "tasks", "--json"],
        3,
    );
    assert_eq!(
        (&summary["training"], &summary["kept"]),
        (&json!(7), &json!(1))
    );
    let converted = at("tasks/Task11_mixed");
    assert_eq!(failures(&converted).len(), 1);
    let listed = names(&converted.join("imagesTr"));
    assert!(
        !listed.contains(&"a.nii.gz".to_owned()) && listed.len() == 7,
        "{listed:?}"
    );
    assert_eq!(names(&converted.join("labelsTr")), listed);
    assert_eq!(json(&converted.join("dataset.json"))["numTraining"], 7);
    fs::remove_file(at("data/images/z.nii.gz")).unwrap();
    fs::remove_file(at("data/labels/z.nii.gz")).unwrap();
    write_map_on(&at("data/labels/a.nii.gz"), grid(), &[1]);
    let summary = run_json(
        folder.path(),
        &["convert", "data", "--to", "msd", "-o", "tasks", "--json"],
        0,
    );
    assert_eq!(
        (&summary["training"], &summary["kept"]),
        (&json!(7), &json!(6))
    );
    assert!(!converted.join("failures.jsonl").exists());
    assert!(
        !converted.join("imagesTr/z.nii.gz").exists(),
        "no longer in the source"
    );
    let dataset = Dataset::open(&converted).unwrap();
    let report = dataset.check(CheckDepth::Voxels, |_, _| {});
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}

/// Writes a case in TotalSegmentator's layout with these masks: name, first voxels.
fn write_masks(root: &Path, case: &str, masks: &[(&str, &[u16])]) {
    write_image_on(&root.join(case).join("ct.nii.gz"), grid(), 0.0);
    for (name, first) in masks {
        let path = root.join(case).join(format!("segmentations/{name}.nii.gz"));
        write_map_on(&path, grid(), first);
    }
}

#[test]
fn overlapping_masks_are_refused_unless_a_rule_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_masks(
        &at("ts"),
        "s1",
        &[
            ("colon", &[1, 1, 0]),
            ("liver", &[0, 1, 1]),
            ("spleen", &[0, 0, 0, 1]),
        ],
    );
    write_masks(&at("ts"), "s2", &[("colon", &[1]), ("liver", &[0, 1])]);
    write_masks(
        &at("ts"),
        "s3",
        &[("colon", &[1, 2]), ("liver", &[0, 0, 1])],
    );
    let convert_log = |line: &str, code| stderr(&convert(folder.path(), line, code));
    let refused = convert_log("ts --to nnunet -o raw", 3);
    let converted = at("raw/Dataset500_ts");
    let listed = failures(&converted);
    for ((_, reason), expected) in listed.iter().zip([
        "s1/segmentations/liver.nii.gz: the masks of colon and liver overlap in 1 voxel, but",
        "s3/segmentations/colon.nii.gz: has values 1 and 2 besides 0",
    ]) {
        assert!(reason.contains(expected), "{listed:?}");
    }
    assert!(listed.len() >= 2, "{listed:?}");
    for expected in [
        "s2: no mask of spleen; treated as background",
        "spleen: in no training case",
    ] {
        assert!(refused.contains(expected), "{refused}");
    }
    // With other settings it is another conversion.
    let last = "ts --to nnunet -o raw --overlaps last";
    let other = convert_log(last, 1);
    assert!(
        other.contains(
            "with different settings; choose another --name, --id or -o, or replace it with --overwrite"
        ),
        "{other}"
    );
    let replaced = convert_log(&format!("{last} --overwrite"), 3);
    assert!(
        replaced.contains(
            "s1: the masks of colon and liver overlap in 1 voxel; the structure with the higher label value wins"
        ),
        "{replaced}"
    );
    let (_, labels) = read_labels(&converted.join("labelsTr/s1.nii.gz")).unwrap();
    let first: Vec<u16> = labels.data.iter().take(5).copied().collect();
    assert_eq!(first, [1, 2, 2, 3, 0]);
}

#[test]
fn non_finite_values_and_oblique_axes_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_dataset(&at("data"), &[("a", &[1]), ("b", &[1])]);
    let mut data = Array3::from_elem(grid().shape_zyx(), 1.0);
    data[[0, 0, 0]] = f32::NAN;
    let volume = Volume { grid: grid(), data };
    write_volume(&at("data/images/a.nii.gz"), &volume, VoxelType::F32).unwrap();
    let output = run(
        folder.path(),
        &["convert", "data", "--to", "nnunet", "--check"],
        0,
    );
    assert!(
        stderr(&output).contains("a: the image has 1 NaN or infinite voxel, which nnU-Net rejects"),
        "{}",
        stderr(&output)
    );
    // ITK refuses gantry tilt: nnU-Net is set to read with nibabel.
    write_image_on(&at("data/images/a.nii.gz"), grid(), 1.0);
    let mut tilted = grid();
    tilted.affine[1][2] = 0.3;
    write_image_on(&at("data/images/b.nii.gz"), tilted, 1.0);
    write_map_on(&at("data/labels/b.nii.gz"), tilted, &[1]);
    run(
        folder.path(),
        &["convert", "data", "--to", "nnunet", "-o", "raw"],
        0,
    );
    let converted = at("raw/Dataset500_data");
    assert_eq!(
        json(&converted.join("dataset.json"))["overwrite_image_reader_writer"],
        "NibabelIO"
    );
    nnunet_accepts(&converted);
}

#[test]
fn ignored_voxels_become_the_last_label() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_dataset(&at("data"), &[("a", &[4, 255, 0, 9]), ("b", &[9, 4])]);
    let write_descriptor = |structures: &str| {
        let text = format!(
            "name = \"some\"\nimages = \"images/*.nii.gz\"\nlabels = \"labels/{{case}}.nii.gz\"\nignore = 255\n[structures]\n{structures}"
        );
        fs::write(at("data/dataset.toml"), text).unwrap();
    };
    write_descriptor("liver = 9\nkidney = 4\n");
    run(
        folder.path(),
        &["convert", "data", "--to", "nnunet", "-o", "raw"],
        0,
    );
    let converted = at("raw/Dataset500_some");
    let labels = json!({"background": 0, "kidney": 1, "liver": 2, "ignore": 3});
    assert_eq!(json(&converted.join("dataset.json"))["labels"], labels);
    let (_, map) = read_labels(&converted.join("labelsTr/a.nii.gz")).unwrap();
    assert_eq!(
        map.data.iter().take(5).copied().collect::<Vec<_>>(),
        [1, 3, 0, 2, 0]
    );
    assert_eq!(Dataset::open(&converted).unwrap().ignore, Some(3));
    nnunet_accepts(&converted);
    write_descriptor("ignore = 9\nkidney = 4\n");
    let output = run(
        folder.path(),
        &["convert", "data", "--to", "nnunet", "--check"],
        1,
    );
    assert!(
        stderr(&output).contains("the structure with value 9 is named 'ignore'"),
        "{}",
        stderr(&output)
    );
}
