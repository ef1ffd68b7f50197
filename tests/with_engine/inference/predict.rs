//! Prediction through the binary with random weights: geometry, failures, kills.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::batches::json;
use crate::common::runs::written_and_kept;
use crate::common::{ctseg, phantoms, random_model, run, run_json, stderr};
use ctseg_image::nifti::{VoxelType, read_labels, read_volume, write_volume};
use ctseg_image::resample::{Interpolation, resample};
use ctseg_image::space::{LabelMap, Orientation, Volume};

/// The label map resampled to another parallel grid of the same voxels.
fn onto(labels: &LabelMap, grid: &ctseg_image::space::Grid) -> Vec<f32> {
    let volume = Volume {
        grid: labels.grid,
        data: labels.data.mapv(f32::from),
    };
    resample(&volume, grid, Interpolation::Nearest)
        .unwrap()
        .data
        .into_iter()
        .collect()
}

/// Saves `image` in these orientations, predicts them, and compares every result with that of the image.
fn assert_same_in(orientations: &[Orientation], image: &Path) {
    let folder = tempfile::tempdir().unwrap();
    random_model(&folder.path().join("model"), &["roi.threshold=0.5"]);
    let volume = read_volume(image).unwrap().volume;
    for orientation in orientations {
        let turned = resample(
            &volume,
            &volume.grid.reoriented(*orientation),
            Interpolation::Nearest,
        )
        .unwrap();
        let path = folder.path().join(format!("turned/{orientation}.nii"));
        write_volume(&path, &turned, VoxelType::F32).unwrap();
    }
    run(
        folder.path(),
        &["predict", "turned", image.to_str().unwrap(), "-o", "out"],
        0,
    );
    let (_, expected) =
        read_labels(&folder.path().join("out").join(image.file_name().unwrap())).unwrap();
    assert!(
        expected.data.iter().any(|label| *label > 0),
        "an empty result would prove nothing"
    );
    let expected: Vec<f32> = expected
        .data
        .iter()
        .map(|label| f32::from(*label))
        .collect();
    for orientation in orientations {
        let (_, turned) =
            read_labels(&folder.path().join(format!("out/{orientation}.nii"))).unwrap();
        let back = onto(&turned, &volume.grid);
        let same = back.iter().zip(&expected).filter(|(a, b)| a == b).count() as f64
            / expected.len() as f64;
        assert!(
            same >= 0.999,
            "{orientation}: {:.3} % of the voxels agree",
            100.0 * same
        );
    }
}

#[test]
fn the_sample_has_the_same_segmentation_in_all_48_orientations() {
    let sample = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/example_ct_sm.nii.gz"
    );
    let all: Vec<Orientation> = Orientation::all().collect();
    assert_same_in(&all, Path::new(sample));
}

#[test]
fn a_head_and_neck_case_has_the_same_segmentation_in_other_orientations() {
    let Some(data) = std::env::var_os("CTSEG_TEST_DATA") else {
        println!("skipped: CTSEG_TEST_DATA is not set");
        return;
    };
    // Every axis in every place and direction.
    let codes = ["RAS", "LPS", "PIR", "SLA", "IAL", "ASR"];
    let orientations = codes.map(|code| code.parse().unwrap());
    let image = Path::new(&data).join("headneck/images/kbp_187.nii.gz");
    assert_same_in(&orientations, &image);
}

#[test]
fn a_bad_case_does_not_affect_the_others() {
    let folder = tempfile::tempdir().unwrap();
    phantoms(&folder.path().join("data"), 2, 0);
    let images = folder.path().join("data/images");
    let whole = std::fs::read(images.join("phantom_000.nii.gz")).unwrap();
    std::fs::write(images.join("a_truncated.nii.gz"), &whole[..whole.len() / 2]).unwrap();
    random_model(&folder.path().join("model"), &[]);
    let summary = run_json(
        folder.path(),
        &[
            "predict",
            "data/images",
            "missing.nii.gz",
            "-o",
            "out",
            "--json",
        ],
        3,
    );
    assert_eq!(summary["written"].as_array().unwrap().len(), 2);
    let failures = std::fs::read_to_string(folder.path().join("out/failures.jsonl")).unwrap();
    assert_eq!(failures.lines().count(), 2, "{failures}");
    assert!(
        failures.contains("a_truncated.nii.gz") && failures.contains("missing.nii.gz"),
        "{failures}"
    );
    assert!(folder.path().join("out/phantom_001.nii.gz").exists());
    assert!(!folder.path().join("out/a_truncated.nii.gz").exists());

    // Exit code 1 if every case fails; a run without failures removes failures.jsonl.
    run(
        folder.path(),
        &["predict", "missing.nii.gz", "-o", "none"],
        1,
    );
    run(
        folder.path(),
        &["predict", "data/images/phantom_00?.nii.gz", "-o", "out"],
        0,
    );
    assert!(!folder.path().join("out/failures.jsonl").exists());
}

#[test]
fn labels_beyond_255_and_single_output_names_work() {
    let folder = tempfile::tempdir().unwrap();
    let sample = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/example_ct_sm.nii.gz"
    );
    random_model(&folder.path().join("model"), &[]);
    run(
        folder.path(),
        &["predict", sample, "-o", "here/result.nii.gz"],
        0,
    );
    let (header, labels) = read_labels(&folder.path().join("here/result.nii.gz")).unwrap();
    assert_eq!(
        labels.grid,
        read_volume(Path::new(sample)).unwrap().volume.grid
    );
    assert!(labels.data.iter().all(|label| matches!(label, 0 | 1 | 300)));
    let wide = labels.data.iter().any(|label| *label == 300);
    assert_eq!(
        header.datatype_name(),
        if wide { "uint16" } else { "uint8" }
    );
    assert_eq!(
        json(&folder.path().join("here/result.json"))["structures"]["spleen"],
        300
    );
}

#[test]
fn an_empty_region_falls_back_to_the_whole_volume_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    phantoms(&folder.path().join("data"), 1, 0);
    random_model(&folder.path().join("model"), &["roi.threshold=0.9999"]);
    let output = run(folder.path(), &["predict", "data/images", "-o", "out"], 0);
    let log = stderr(&output);
    assert!(
        log.contains("found nothing; the whole volume was segmented"),
        "{log}"
    );
    let sidecar = json(&folder.path().join("out/phantom_000.json"));
    assert_eq!(sidecar["cascade"]["roi_share"], 1.0);
    assert!(
        sidecar["notes"].to_string().contains("found nothing"),
        "{sidecar}"
    );
}

/// Label maps in the folder, without temporary files.
fn finished(out: &Path) -> Vec<PathBuf> {
    let Ok(files) = out.read_dir() else {
        return Vec::new();
    };
    let name = |file: &PathBuf| file.file_name().unwrap().to_str().unwrap().to_owned();
    files
        .map(|file| file.unwrap().path())
        .filter(|file| name(file).ends_with(".nii.gz") && !name(file).starts_with(".ctseg-"))
        .collect()
}

#[test]
fn a_killed_batch_leaves_only_complete_label_maps_and_resumes_from_them() {
    let folder = tempfile::tempdir().unwrap();
    phantoms(&folder.path().join("data"), 6, 0);
    random_model(&folder.path().join("model"), &[]);
    let finished = || finished(&folder.path().join("out"));
    for delay_ms in [5, 20, 40, 60, 80, 110] {
        let before = finished().len();
        let mut child = ctseg(folder.path(), &["predict", "data/images", "-o", "out"])
            .spawn()
            .unwrap();
        // Killed some time after one more case is done, unless the batch ends first.
        while finished().len() == before && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(delay_ms));
        let _ = child.kill();
        child.wait().unwrap();
        for file in finished() {
            read_labels(&file).unwrap_or_else(|error| panic!("after {delay_ms} ms: {error}"));
        }
    }
    run(folder.path(), &["predict", "data/images", "-o", "out"], 0);
    assert_eq!(finished().len(), 6);
    // Complete outputs of the same input and model are kept; a changed input is predicted again.
    let all = ["data/images", "-o", "out", "--overwrite"];
    let count = |arguments| written_and_kept(folder.path(), arguments);
    assert_eq!(count(&all[..3]), (0, 6));
    let images = folder.path().join("data/images");
    std::fs::copy(
        images.join("phantom_001.nii.gz"),
        images.join("phantom_000.nii.gz"),
    )
    .unwrap();
    assert_eq!(count(&all[..3]), (1, 5));
    assert_eq!(count(&all), (6, 0));
}

#[test]
fn volumes_with_the_same_name_are_distinguished_by_their_folders() {
    let folder = tempfile::tempdir().unwrap();
    phantoms(&folder.path().join("data"), 2, 0);
    random_model(&folder.path().join("model"), &[]);
    for case in ["s0", "s1"] {
        let own = folder.path().join(case);
        std::fs::create_dir(&own).unwrap();
        let image = if case == "s0" {
            "phantom_000"
        } else {
            "phantom_001"
        };
        std::fs::copy(
            folder.path().join(format!("data/images/{image}.nii.gz")),
            own.join("ct.nii.gz"),
        )
        .unwrap();
    }
    run(folder.path(), &["predict", "s?/ct.nii.gz", "-o", "out"], 0);
    assert!(
        folder.path().join("out/s0.nii.gz").exists()
            && folder.path().join("out/s1.nii.gz").exists()
    );
}

#[test]
fn an_impossible_header_fails_only_its_case() {
    let folder = tempfile::tempdir().unwrap();
    random_model(&folder.path().join("model"), &[]);
    let grid = ctseg_image::space::Grid::with_spacing([64, 64, 40], [700.0, 700.0, 500.0]);
    let volume = Volume {
        grid,
        data: ndarray::Array3::zeros((40, 64, 64)),
    };
    write_volume(
        &folder.path().join("metres.nii.gz"),
        &volume,
        VoxelType::I16,
    )
    .unwrap();
    let log = stderr(&run(
        folder.path(),
        &["predict", "metres.nii.gz", "-o", "out"],
        1,
    ));
    assert!(
        log.contains("metres.nii.gz") && log.contains("spacing"),
        "{log}"
    );
}

#[test]
fn requests_that_cannot_succeed_are_refused_before_prediction() {
    let folder = tempfile::tempdir().unwrap();
    phantoms(&folder.path().join("data"), 2, 0);
    let images = folder.path().join("data/images");
    let output = run(folder.path(), &["predict", "data/images", "-o", "out"], 1);
    assert!(
        stderr(&output).contains("model") && stderr(&output).contains("--model"),
        "{}",
        stderr(&output)
    );
    random_model(&folder.path().join("model"), &[]);
    for (arguments, expected) in [
        (
            vec!["predict", "data/images", "-o", "data/images"],
            "overwrite",
        ),
        (vec!["predict", "data/images", "-o", "one.nii.gz"], "folder"),
        (vec!["predict", "nothing*.nii", "-o", "out"], "no volume"),
        (
            vec!["predict", "data/images", "-o", "out", "--device", "abacus"],
            "abacus",
        ),
    ] {
        let usage = ["abacus", "one.nii.gz"]
            .iter()
            .any(|wrong| arguments.contains(wrong));
        let code = if usage { 2 } else { 1 };
        let log = stderr(&run(folder.path(), &arguments, code));
        assert!(log.contains(expected), "{arguments:?}: {log}");
    }
    // A model with one changed byte is not used.
    let weights = folder.path().join("model/stage2.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let log = stderr(&run(
        folder.path(),
        &["predict", images.to_str().unwrap(), "-o", "out"],
        1,
    ));
    assert!(
        log.contains("stage2.safetensors") && log.contains("SHA-256"),
        "{log}"
    );
}

#[test]
fn lists_and_folders_name_their_volumes() {
    let folder = tempfile::tempdir().unwrap();
    phantoms(&folder.path().join("data"), 3, 0);
    random_model(&folder.path().join("model"), &[]);
    std::fs::write(
        folder.path().join("cases.txt"),
        "# two of them\ndata/images/phantom_002.nii.gz\n\ndata/images/phantom_000.nii.gz\n",
    )
    .unwrap();
    let summary = run_json(
        folder.path(),
        &["predict", "@cases.txt", "-o", "out", "--json"],
        0,
    );
    assert_eq!(
        summary["written"],
        serde_json::json!(["out/phantom_002.nii.gz", "out/phantom_000.nii.gz"])
    );
}
