//! Checks of a dataset.

use super::*;

fn named(root: &Path) -> Dataset {
    write_text(
        &root.join("dataset.toml"),
        "name = \"bad\"\nimages = \"images/*.nii.gz\"\nlabels = \"labels/{case}.nii.gz\"\n[structures]\nliver = 1\nspleen = 2\n",
    );
    Dataset::open(root).unwrap()
}

/// Problems in the cases `c1` to `c5` and a label map without an image; `c0` is valid, `c6` is empty.
fn six_problems(root: &Path) -> Dataset {
    plain(
        root,
        &[&[1, 2], &[1, 9, 9, 12], &[1], &[1], &[1], &[1], &[]],
    );
    write_map_on(
        &root.join("labels/c2.nii.gz"),
        Grid::with_spacing([4, 3, 3], [1.0, 1.5, 2.0]),
        &[1],
    );
    let mut moved = grid();
    moved.affine[2][3] = 1.5;
    write_map_on(&root.join("labels/c3.nii.gz"), moved, &[1]);
    fs::remove_file(root.join("labels/c4.nii.gz")).unwrap();
    write_text(&root.join("images/c5.nii.gz"), "this is not a NIfTI file");
    write_map(&root.join("labels/stray.nii.gz"), &[1]);
    named(root)
}

#[test]
fn all_problems_are_listed_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let report = check(&six_problems(folder.path()));
    let found = problems(&report);
    let expected: [&[&str]; 6] = [
        &[
            "labels/c1.nii.gz: unknown label values 9 (2 voxels), 12 (1 voxel)",
            "1 liver, 2 spleen",
        ],
        &[
            "labels/c2.nii.gz: ",
            "differ in shape",
            "labels 4×3×3 voxels of 1×1.5×2 mm, RAS",
            "image 4×3×2",
        ],
        &[
            "labels/c3.nii.gz: ",
            "position, by up to 1.500 mm, 0.75 voxels,",
            "(0, 0, 1.5) mm",
            "image 4×3×2",
        ],
        &["labels/c4.nii.gz: cannot "],
        &["images/c5.nii.gz: "],
        &["stray.nii.gz: labels without an image"],
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for ((text, problem), parts) in found.iter().zip(&report.problems).zip(expected) {
        for part in parts {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
        assert!(!text.contains('\n'));
        let file = problem.file.display().to_string();
        assert_eq!(text.matches(&file).count(), 1, "{text}");
    }
    assert_eq!(notes(&report), ["c6: the label map is empty"]);
    let summary = report.into_result().unwrap_err().to_string();
    assert!(
        summary.contains("'bad': 6 problems in 6 of 7 cases"),
        "{summary}"
    );
    assert!(!summary.contains('\n'));
}

#[test]
fn only_valid_cases_can_be_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = six_problems(folder.path());
    let load = |index: usize| dataset.load(&dataset.cases[index]).unwrap_err().to_string();
    assert!(load(2).contains("labels/c2.nii.gz: the labels differ in shape"));
    assert!(load(3).contains("position"));
    assert!(dataset.load(&dataset.cases[0]).is_ok());
}

#[test]
fn a_valid_dataset_passes_in_spite_of_rounded_headers() {
    let folder = tempfile::tempdir().unwrap();
    plain(folder.path(), &[&[1], &[1]]);
    let mut rounded = grid();
    rounded.affine[0][3] = 2e-4;
    write_map_on(&folder.path().join("labels/c1.nii.gz"), rounded, &[1]);
    let dataset = named(folder.path());
    let (calls, last) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let report = dataset.check(CheckDepth::Headers, |done, total| {
        assert_eq!(total, 2);
        calls.fetch_add(1, Ordering::Relaxed);
        last.fetch_max(done, Ordering::Relaxed);
    });
    assert_eq!((calls.into_inner(), last.into_inner()), (2, 2));
    let notes = report.into_result().unwrap();
    assert_eq!(notes.len(), 1);
    assert_eq!(
        notes[0].to_string(),
        "structure 'spleen' (value 2) occurs in no case"
    );
    assert_eq!(dataset.load(&dataset.cases[1]).unwrap().labels.grid, grid());
}

#[test]
fn images_are_read_only_on_request() {
    let folder = tempfile::tempdir().unwrap();
    plain(folder.path(), &[&[1, 2], &[1], &[1]]);
    let path = |case: &str| folder.path().join(format!("images/{case}.nii.gz"));
    let constant = Volume {
        grid: grid(),
        data: Array3::from_elem(grid().shape_zyx(), -7.0),
    };
    write_volume(&path("c0"), &constant, VoxelType::F32).unwrap();
    let mut holed = constant.clone();
    holed.data[[1, 1, 1]] = f32::NAN;
    holed.data[[1, 1, 2]] = 3.0;
    write_volume(&path("c1"), &holed, VoxelType::F32).unwrap();
    let whole = fs::read(path("c2")).unwrap();
    fs::write(path("c2"), &whole[..whole.len() - 9]).unwrap();
    let dataset = named(folder.path());
    let report = dataset.check(CheckDepth::Voxels, |_, _| {});
    let found = problems(&report);
    assert!(
        found.len() == 1 && found[0].contains("images/c2.nii.gz: "),
        "{found:?}"
    );
    let all = notes(&report).join("\n");
    assert!(
        all.contains(
            "c0: its values do not look like Hounsfield units: every voxel has the value -7"
        ),
        "{all}"
    );
    assert!(
        all.contains("c1: the image has 1 NaN or infinite voxel"),
        "{all}"
    );
    assert!(
        notes(&check(&dataset))
            .iter()
            .all(|n| !n.contains("infinite") && !n.contains("Hounsfield"))
    );
}

#[test]
fn masks_must_be_binary_and_on_the_images_grid() {
    let folder = tempfile::tempdir().unwrap();
    let case = folder.path().join("s1");
    write_image(&case.join("ct.nii.gz"));
    write_map(&case.join("segmentations/a.nii.gz"), &[1, 2]);
    write_map_on(
        &case.join("segmentations/b.nii.gz"),
        Grid::with_spacing([5, 3, 2], [1.0; 3]),
        &[1],
    );
    write_map(&case.join("segmentations/c.nii.gz"), &[255]);
    write_text(&case.join("segmentations/d.nii.gz"), "not NIfTI");
    let dataset = Dataset::open(folder.path()).unwrap();
    let report = check(&dataset);
    let found = problems(&report);
    assert_eq!(found.len(), 3, "{found:#?}");
    // `d` cannot be read, so it is unknown whether it occurs.
    let unseen = "occurs in no case";
    assert!(notes(&report).iter().all(|note| !note.contains(unseen)));
    assert!(
        found[0].contains("a.nii.gz: has the values 1 and 2 besides 0; expected a binary mask")
    );
    assert!(found[1].contains("b.nii.gz: the labels differ in shape"));
    assert!(found[2].contains("d.nii.gz: "));
    assert!(
        dataset
            .load_labels(&dataset.cases[0])
            .unwrap_err()
            .to_string()
            .contains("b.nii.gz")
    );
}

#[test]
fn two_files_for_one_id_are_a_problem() {
    let folder = tempfile::tempdir().unwrap();
    plain(folder.path(), &[&[1], &[2]]);
    write_image(&folder.path().join("images/c0.nii"));
    let found = problems(&check(&Dataset::open(folder.path()).unwrap()));
    assert!(
        found
            .iter()
            .any(|p| p.contains("c0.nii.gz: duplicate case id, also used by")),
        "{found:?}"
    );
}

#[test]
fn images_used_as_label_maps_are_detected() {
    let folder = tempfile::tempdir().unwrap();
    let grid = Grid::with_spacing([40, 40, 1], [1.0; 3]);
    write_image_on(&folder.path().join("images/a.nii.gz"), grid, 0.0);
    let values: Vec<u16> = (0..1600).collect();
    write_map_on(&folder.path().join("labels/a.nii.gz"), grid, &values);
    let text = Dataset::open(folder.path()).unwrap_err().to_string();
    assert!(
        text.contains("a.nii.gz: the label maps up to this one hold 1599 different values"),
        "{text}"
    );
    write_map_on(&folder.path().join("labels/a.nii.gz"), grid, &[]);
    let text = Dataset::open(folder.path()).unwrap_err().to_string();
    assert!(text.contains("no label map holds any structure"), "{text}");
}

#[test]
fn images_under_several_names_are_found_and_grouped() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join("images").join(name);
    plain(folder.path(), &[&[1, 2][..]; 5]);
    // c0, c2 and c4 are the same image, c4 with another compression; c1 is different.
    for (case, value) in [("c0", 40.0), ("c1", 41.0), ("c2", 40.0), ("c3", 42.0)] {
        write_image_on(&path(&format!("{case}.nii.gz")), grid(), value);
    }
    fs::remove_file(path("c4.nii.gz")).unwrap();
    write_image_on(&path("c4.nii"), grid(), 40.0);
    let dataset = Dataset::open(folder.path()).unwrap();
    let report = dataset.check(CheckDepth::Voxels, |_, _| {});
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    let note = "cases c0, c2, c4 have the same image; treated as one patient";
    let mut found = notes(&report);
    found.retain(|found| !found.contains("Hounsfield")); // values this small fit into bytes
    assert_eq!(found, [note]);
    let content = DatasetContent::new(&dataset, report.contents);
    assert_eq!(content.cases.len(), 5);
    let grouped = dataset.with_duplicates_grouped(&content);
    for seed in 0..8 {
        let held_out = grouped.split(2, 0, seed).unwrap().validation;
        let copies = [0, 2, 4].map(|index| held_out.contains(&index));
        assert!(copies == [true; 3] || copies == [false; 3], "{held_out:?}");
    }
    // A check of headers reads no voxels.
    assert!(check(&dataset).contents.is_empty());

    let tested = Dataset {
        test: vec!["c2".to_owned()],
        ..dataset
    };
    let report = tested.check(CheckDepth::Voxels, |_, _| {});
    let found = problems(&report);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("c0.nii.gz: ") && found[0].contains("in the test set as case 'c2'"),
        "{found:?}"
    );
}
