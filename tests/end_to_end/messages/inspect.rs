//! Output of `ctseg inspect` for datasets and label maps.

use super::*;
use serde_json::Value;

#[test]
fn missing_dataset_files_are_listed_and_exit_with_3() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    dataset(&folder.join("data"), 3, false);
    let printed = stdout(&run(folder, &["inspect", "data"], 0));
    assert!(printed.contains("3 cases, 3 for training"), "{printed}");
    assert!(!printed.contains("missing"), "{printed}");
    fs::remove_file(folder.join("data/labels/c1.nii.gz")).unwrap();
    let printed = stdout(&run(folder, &["inspect", "data"], 3));
    let missing: Vec<&str> = printed
        .lines()
        .filter(|line| line.starts_with("missing"))
        .collect();
    assert!(
        missing.len() == 1 && missing[0].contains("c1.nii.gz"),
        "{printed}"
    );
    let value: Value = run_json(folder, &["--json", "inspect", "data"], 3);
    assert_eq!(value["missing"].as_array().unwrap().len(), 1, "{value:#}");
    // A descriptor with images only has no missing files.
    let images = "name = \"x\"\nimages = \"images/*.nii.gz\"\n[structures]\na = 1\n";
    fs::write(folder.join("data/images.toml"), images).unwrap();
    run(folder, &["inspect", "data/images.toml"], 0);
    // One case is singular.
    dataset(&folder.join("one"), 1, false);
    let printed = stdout(&run(folder, &["inspect", "one"], 0));
    assert!(printed.contains("1 case, 1 for training"), "{printed}");
}

#[test]
fn inspect_check_equals_convert_check() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    dataset(&folder.join("data"), 3, true);
    let check = &["inspect", "data", "--check"];
    let output = run(folder, check, 0);
    assert!(
        stdout(&output).contains("3 training cases and 0 test cases without problems"),
        "{}",
        stdout(&output)
    );
    fs::write(folder.join("data/labelsTr/c1.nii.gz"), "no volume").unwrap();
    let output = run(folder, check, 3);
    let log = stderr(&output);
    assert_eq!(log.matches("labelsTr/c1.nii.gz").count(), 1, "{log}");
    assert!(
        stdout(&output).contains("2 training cases and 0 test cases without problems; 1 problem"),
        "{}",
        stdout(&output)
    );
    let alias = run(folder, &["convert", "data", "--to", "nnunet", "--check"], 3);
    assert_eq!(stderr(&alias), log);
    let value: Value =
        serde_json::from_slice(&run(folder, &["--json", "inspect", "data", "--check"], 3).stdout)
            .unwrap();
    assert_eq!((&value["training"], &value["test"]), (&2.into(), &0.into()));
    assert_eq!(value["failed"].as_array().unwrap().len(), 1, "{value:#}");
}

#[test]
fn inspect_shows_labels_instead_of_hounsfield_units_for_a_label_map() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    dataset(&folder.join("data"), 1, true);
    let label = "data/labelsTr/c0.nii.gz";
    let printed = stdout(&run(folder, &["inspect", label], 0));
    assert!(!printed.contains("HU histogram"), "{printed}");
    let row = |label: &str, voxels: &str| {
        let words = |line: &str| {
            line.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        printed
            .lines()
            .map(words)
            .any(|words| words.len() == 4 && words[1] == label && words[2] == voxels)
    };
    assert!(row("1", "216") && row("2", "180"), "{printed}");
    let value: Value = run_json(folder, &["--json", "inspect", label], 0);
    assert!(value["histogram"].is_null(), "{value:#}");
    assert_eq!(value["labels"][0]["voxels"], 216, "{value:#}");
    // A mask, and an empty one.
    let grid = small_grid();
    let mut mask = LabelMap::empty(grid);
    for (name, voxels) in [("empty", 0), ("mask", 3)] {
        mask.data
            .iter_mut()
            .take(voxels)
            .for_each(|voxel| *voxel = 1);
        let path = folder.join(format!("{name}.nii.gz"));
        write_labels(&path, &mask, &NiftiHeader::for_grid(&grid).unwrap()).unwrap();
        let printed = stdout(&run(folder, &["inspect", path.to_str().unwrap()], 0));
        assert!(!printed.contains("HU histogram"), "{name}: {printed}");
    }
    // Structures of two voxels.
    let mut small = LabelMap::empty(grid);
    for (place, voxel) in small.data.iter_mut().enumerate() {
        *voxel = [0, 0, 1, 1, 0, 2, 2, 0][place % 8];
    }
    let path = folder.join("small.nii.gz");
    write_labels(&path, &small, &NiftiHeader::for_grid(&grid).unwrap()).unwrap();
    let printed = stdout(&run(folder, &["inspect", "small.nii.gz"], 0));
    assert!(!printed.contains("HU histogram"), "{printed}");
    // Scans have one, also if a shift leaves nothing below zero.
    let mut scan = ball(0, grid);
    let noise = |place: usize| (place * 7919 % 31) as f32;
    scan.data
        .iter_mut()
        .enumerate()
        .for_each(|(place, value)| *value += 1024.0 + noise(place));
    write_volume(&folder.join("scan.nii.gz"), &scan, VoxelType::I16).unwrap();
    for scan in ["scan.nii.gz", "data/imagesTr/c0_0000.nii.gz"] {
        let printed = stdout(&run(folder, &["inspect", scan], 0));
        assert!(printed.contains("HU histogram"), "{scan}: {printed}");
    }
}

#[test]
fn the_ignore_label_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    dataset(&folder.join("data"), 2, true);
    let printed = stdout(&run(folder, &["inspect", "data"], 0));
    let ignored = |line: &str| line.contains("ignored") && line.trim_end().ends_with('2');
    assert!(printed.lines().any(ignored), "{printed}");
}
