//! Outputs besides label maps (masks, chosen structures, statistics, pictures), and inputs.

use ctseg_report::pictures::Picture;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::runs::written_and_kept;
use crate::common::{phantoms, random_model, run, run_json, stderr};
use ctseg_image::nifti::{LabelNames, read_label_names, read_labels, read_volume};
use ctseg_image::space::label_colour;
use ctseg_report::pictures::preview;
use serde_json::Value;

/// Writes phantoms, and a model of the structures liver (1) and spleen (300).
fn prepared(folder: &Path, phantom_count: usize) {
    phantoms(&folder.join("data"), phantom_count, 0);
    random_model(&folder.join("model"), &["roi.threshold=0.5"]);
}

/// Numbers of cases written and kept.
fn counts(folder: &Path, arguments: &[&str]) -> (usize, usize) {
    written_and_kept(folder, &[&["data/images", "-o", "out"], arguments].concat())
}

fn structures_in(map: &Path) -> Vec<u16> {
    let (_, labels) = read_labels(map).unwrap();
    let mut found: Vec<u16> = labels.data.iter().copied().collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[test]
fn missing_masks_statistics_and_pictures_are_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    prepared(folder, 2);
    assert_eq!(counts(folder, &[]), (2, 0));
    let out = folder.join("out");
    assert!(!out.join("phantom_000").exists() && !out.join("phantom_000_preview.png").exists());
    let names = read_label_names(&out.join("phantom_000.nii.gz")).unwrap();
    let known = [(1, "liver".to_owned()), (300, "spleen".to_owned())];
    assert_eq!(names, LabelNames::from(known));
    // More outputs are requested than exist: the cases are predicted again, once.
    let more = ["--split", "--preview"];
    assert_eq!(counts(folder, &more), (2, 0));
    assert_eq!(counts(folder, &more), (0, 2));
    assert_eq!(counts(folder, &[]), (0, 2));
    let mask = out.join("phantom_001/spleen.nii.gz");
    let picture = out.join("phantom_000_preview.png");
    for lost in [&mask, &picture] {
        let whole = fs::read(lost).unwrap();
        fs::remove_file(lost).unwrap();
        assert_eq!(counts(folder, &[]), (0, 2));
        assert_eq!(counts(folder, &more), (1, 1));
        assert!(fs::read(lost).unwrap() == whole, "{}", lost.display());
    }
    check_with_numpy(folder);
    // The table covers the folder, not the last command.
    fs::remove_file(out.join("statistics.csv")).unwrap();
    let one = ["predict", "data/images/phantom_000.nii.gz", "-o", "out"];
    run(folder, &one, 0);
    let table = fs::read_to_string(out.join("statistics.csv")).unwrap();
    assert_eq!(table.lines().count(), 1 + 2 * 2, "{table}");
}

fn check_with_numpy(folder: &Path) {
    let Some(python) = std::env::var_os("CTSEG_TEST_PYTHON") else {
        println!("skipped: CTSEG_TEST_PYTHON is not set");
        return;
    };
    let output = Command::new(python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/check_statistics.py"))
        .args([folder.join("data/images"), folder.join("out")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(output.stdout.starts_with(b"4 rows"), "{output:?}");
}

#[test]
fn only_chosen_structures_are_written_and_other_files_removed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    prepared(folder, 1);
    assert_eq!(counts(folder, &["--split"]), (1, 0));
    let out = folder.join("out");
    let present = structures_in(&out.join("phantom_000.nii.gz"));
    let (label, name, other) = match present.last() {
        Some(300) => (300, "spleen", "liver"),
        _ => (1, "liver", "spleen"),
    };
    assert!(
        present.contains(&label),
        "an empty result would prove nothing"
    );
    let mask = out.join(format!("phantom_000/{name}.nii.gz"));
    let before = fs::read(&mask).unwrap();
    assert_eq!(counts(folder, &["--split", "--structures", name]), (1, 0));
    assert_eq!(structures_in(&out.join("phantom_000.nii.gz")), [0, label]);
    assert!(fs::read(&mask).unwrap() == before);
    assert!(!out.join(format!("phantom_000/{other}.nii.gz")).exists());
    let names = read_label_names(&out.join("phantom_000.nii.gz")).unwrap();
    assert_eq!(names.into_keys().collect::<Vec<_>>(), [label]);
    let sidecar: Value =
        serde_json::from_slice(&fs::read(out.join("phantom_000.json")).unwrap()).unwrap();
    assert_eq!(sidecar["statistics"].as_object().unwrap().len(), 1);
    // Masks only; a second run does not expect a label map.
    let masks = ["--split", "--no-label-map"];
    assert_eq!(counts(folder, &masks), (1, 0));
    assert!(!out.join("phantom_000.nii.gz").exists());
    assert!(out.join("phantom_000/liver.nii.gz").exists());
    assert_eq!(counts(folder, &masks), (0, 1));
    assert_eq!(counts(folder, &[]), (1, 0));
    assert!(!out.join("phantom_000").exists());
    let wrong = |arguments: &[&str], expected: &str| {
        let all = [&["predict", "data/images", "-o", "out"], arguments].concat();
        let log = stderr(&run(folder, &all, 2));
        assert!(log.contains(expected), "{log}");
    };
    wrong(&["--structures", "spleen,heart"], "liver, spleen");
    wrong(&["--no-label-map"], "--split");
}

#[test]
fn nested_folders_lists_and_channels_are_inputs_and_results_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    prepared(folder, 1);
    let image = folder.join("data/images/phantom_000.nii.gz");
    for name in ["in/a/ct.nii.gz", "in/b/ct.nii.gz", "in/b/case_0000.nii.gz"] {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(&image, path).unwrap();
    }
    let predicted = |arguments: &[&str]| -> Vec<String> {
        let all = [&["predict", "--json", "-o", "in/out"], arguments].concat();
        let summary = run_json(folder, &all, 0);
        let paths = ["written", "kept"].map(|what| summary[what].as_array().unwrap().clone());
        let text = |path: Value| path.as_str().unwrap().to_owned();
        let mut paths: Vec<String> = paths.concat().into_iter().map(text).collect();
        paths.sort();
        paths
    };
    let all = ["in/out/a.nii.gz", "in/out/b.nii.gz", "in/out/case.nii.gz"];
    assert_eq!(predicted(&["in", "--split"]), all);
    // Outputs are not inputs, wherever they are.
    assert_eq!(predicted(&["in"]), all);
    fs::rename(folder.join("in/out"), folder.join("in/old")).unwrap();
    assert_eq!(predicted(&["in"]), all);
    fs::write(folder.join("in/list.txt"), "# one\nb/ct.nii.gz\n").unwrap();
    assert_eq!(predicted(&["@in/list.txt"]), ["in/out/ct.nii.gz"]);
    fs::copy(&image, folder.join("in/b/case_0001.nii.gz")).unwrap();
    // Another channel number is a separate case, and existing outputs keep their names.
    let more = [&all[..], &["in/out/case_0001.nii.gz"]].concat();
    assert_eq!(predicted(&["in"]), more);
}

#[test]
fn names_in_a_label_map_are_used_by_inspect_and_by_datasets_without_names() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    prepared(folder, 2);
    assert_eq!(counts(folder, &[]), (2, 0));
    let output = run(folder, &["inspect", "out/phantom_000.nii.gz"], 0);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("liver") && text.contains("spleen"), "{text}");
    fs::create_dir_all(folder.join("plain/labels")).unwrap();
    fs::rename(folder.join("data/images"), folder.join("plain/images")).unwrap();
    for case in ["phantom_000.nii.gz", "phantom_001.nii.gz"] {
        fs::copy(
            folder.join("out").join(case),
            folder.join("plain/labels").join(case),
        )
        .unwrap();
    }
    let dataset = run_json(folder, &["inspect", "plain", "--json"], 0);
    let maps = ["out/phantom_000.nii.gz", "out/phantom_001.nii.gz"];
    let mut found = maps.map(|map| structures_in(&folder.join(map))).concat();
    found.sort_unstable();
    found.dedup();
    let named = |label: &u16| match label {
        1 => serde_json::json!({"name": "liver", "label": 1}),
        _ => serde_json::json!({"name": "spleen", "label": 300}),
    };
    let expected: Value = found.iter().filter(|l| **l > 0).map(named).collect();
    assert_eq!(dataset["structures"], expected);
}

/// With CTSEG_TEST_DATA; the pictures are kept in the folder CTSEG_TEST_PICTURES, if set.
#[test]
fn pictures_of_real_cases_show_their_structures() {
    let Some(data) = std::env::var_os("CTSEG_TEST_DATA").map(PathBuf::from) else {
        println!("skipped: CTSEG_TEST_DATA is not set");
        return;
    };
    let temporary = tempfile::tempdir().unwrap();
    let pictures = match std::env::var_os("CTSEG_TEST_PICTURES") {
        Some(folder) => PathBuf::from(folder),
        None => temporary.path().to_path_buf(),
    };
    let organs = [
        "brainstem",
        "spinal cord",
        "parotid right",
        "parotid left",
        "mandible",
    ];
    for (image, labels, named) in [
        (
            "headneck/images/kbp_187.nii.gz",
            "headneck/labels/kbp_187.nii.gz",
            true,
        ),
        (
            "totalseg/example_ct.nii.gz",
            "totalseg/example_seg_fast_force_split.nii.gz",
            false,
        ),
        (
            "totalseg/example_ct_sm.nii.gz",
            "totalseg/example_seg.nii.gz",
            false,
        ),
    ] {
        let volume = read_volume(&data.join(image)).unwrap().volume;
        let (_, labels) = read_labels(&data.join(labels)).unwrap();
        let names: LabelNames = match named {
            true => (1..).zip(organs.map(str::to_owned)).collect(),
            false => (1..=117)
                .map(|value| (value, format!("structure_{value}")))
                .collect(),
        };
        let name = image
            .rsplit('/')
            .next()
            .unwrap()
            .replace(".nii.gz", "_preview.png");
        let path = pictures.join(name);
        preview::draw(&path, &volume, &labels, &names).unwrap();
        let picture = Picture::read_png(&path).unwrap();
        let shown = |label: u16| picture.pixels().any(|pixel| pixel == label_colour(label));
        let mut present: Vec<u16> = labels.data.iter().copied().filter(|l| *l > 0).collect();
        present.sort_unstable();
        present.dedup();
        // As outlines, or at least in the legend.
        assert!(present.iter().all(|label| shown(*label)), "{image}");
        assert!(present.len() >= 5 && picture.width() > 1000, "{image}");
    }
}
