//! Batches: hostile volumes, kills, signals, full disks. Models have random weights.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::batches::{
    assert_kept, assert_same_results, ball, batch, files, json, sidecars, small_grid, temp_files,
    wait_until,
};
use crate::common::runs::signal;
use crate::common::{compute, ctseg, run, run_json, stderr};
use ctseg_base::progress::{CaseCounts, Observer, Silent, Task};
use ctseg_core::inference::threshold::Thresholds;
use ctseg_core::outputs::Outputs;
use ctseg_core::outputs::inputs::{expand_inputs, plan_outputs};
use ctseg_image::nifti::{VoxelType, read_header, read_labels, write_volume};
use ctseg_image::space::Grid;
use ctseg_predict::{ImmediateExit, PredictJob, predict};
use serde_json::Value;

mod existing;
mod immediate_exit;

/// Six hostile volumes; the two that cannot be segmented are first by name.
fn hostile(folder: &Path) {
    let path = |name: &str| folder.join("images").join(name);
    let whole = std::fs::read(path("case_00.nii.gz")).unwrap();
    std::fs::write(path("bad_truncated.nii.gz"), &whole[..whole.len() / 2]).unwrap();

    // Two volumes in one file: 4 dimensions in the header (NIfTI-1, dim is at byte 40), voxels twice.
    let volume = ball(1, small_grid());
    write_volume(&path("bad_four.nii"), &volume, VoxelType::I16).unwrap();
    let mut bytes = std::fs::read(path("bad_four.nii")).unwrap();
    bytes[40..42].copy_from_slice(&4i16.to_le_bytes());
    bytes[48..50].copy_from_slice(&2i16.to_le_bytes());
    bytes.extend_from_within(352..);
    std::fs::write(path("bad_four.nii"), bytes).unwrap();

    let mut air = volume.clone();
    air.data.fill(-1000.0);
    write_volume(&path("odd_air.nii.gz"), &air, VoxelType::I16).unwrap();

    let mut holes = volume.clone();
    holes
        .data
        .iter_mut()
        .step_by(7)
        .for_each(|value| *value = f32::NAN);
    write_volume(&path("odd_nan.nii.gz"), &holes, VoxelType::F32).unwrap();

    let flat = ball(2, Grid::with_spacing([18, 20, 3], [6.0, 6.0, 6.0]));
    write_volume(&path("odd_flat.nii.gz"), &flat, VoxelType::I16).unwrap();

    let mut oblique = ball(3, small_grid());
    let (sin, cos) = 20f64.to_radians().sin_cos();
    oblique.grid.affine = [
        [6.0 * cos, -6.0 * sin, 0.0, -50.0],
        [6.0 * sin, 6.0 * cos, 0.0, 30.0],
        [0.0, 0.0, 6.0, -100.0],
    ];
    write_volume(&path("odd_oblique.nii.gz"), &oblique, VoxelType::I16).unwrap();
}

/// The manifest lists all 60 cases with their results.
fn assert_manifest_of_sixty(path: &Path) {
    let manifest = json(path);
    let counts = serde_json::json!({"done": 58, "kept": 0, "failed": 2, "pending": 0});
    assert_eq!(manifest["counts"], counts);
    assert_eq!(manifest["ended"], true);
    assert_eq!(manifest["interrupted"], false);
    let cases = manifest["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 60);
    let four = cases
        .iter()
        .find(|case| case["input"] == "images/bad_four.nii")
        .unwrap();
    assert!(
        four["state"] == "failed" && four["reason"].is_string(),
        "{four}"
    );
}

#[test]
fn six_hostile_volumes_do_not_affect_the_other_54() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    batch(folder.path(), 54);
    hostile(folder.path());
    // One engine for all runs, so that results can be compared to the byte.
    let one = ["predict", "images", "-o", "out", "--device", "flex"];
    let output = run(folder.path(), &one, 3);
    let maps = files(&at("out"), ".nii.gz");
    assert_eq!(maps.len(), 58, "{maps:?}");
    let failures = std::fs::read_to_string(at("out/failures.jsonl")).unwrap();
    let lines: Vec<&str> = failures.lines().collect();
    assert_eq!(lines.len(), 2, "{failures}");
    assert!(lines[0].contains("holds 2 volumes"), "{failures}");
    assert!(
        lines[1].contains("bad_truncated.nii.gz") && lines[1].contains("truncated"),
        "{failures}"
    );
    // Odd volumes have notes, and label maps on their own grids.
    let notes = json(&at("out/odd_nan.json"))["notes"].to_string();
    assert!(notes.contains("not finite"), "{notes}");
    for name in ["odd_air", "odd_nan", "odd_flat", "odd_oblique"] {
        let file = format!("{name}.nii.gz");
        let (header, _) = read_labels(&at("out").join(&file)).unwrap();
        let source = read_header(&at("images").join(&file)).unwrap();
        assert_eq!(header.grid(), source.grid(), "{name}");
    }
    assert_manifest_of_sixty(&at("out/predictions.json"));
    // Two devices give the same warnings in the same order, and the same results.
    let warnings = |output: &std::process::Output| -> Vec<String> {
        let log = stderr(output);
        let warned = log.lines().filter(|line| line.starts_with("warning: "));
        warned.map(str::to_owned).collect()
    };
    let two = ["predict", "images", "-o", "two", "--device", "flex,flex"];
    let again = run(folder.path(), &two, 3);
    assert!(warnings(&output).len() >= 4, "{}", stderr(&output));
    assert_eq!(warnings(&output), warnings(&again));
    assert_same_results(&at("out"), &at("two"));

    // Run again: valid outputs are kept, and only current failures are listed.
    let before = sidecars(&at("out"));
    std::fs::copy(
        at("images/case_00.nii.gz"),
        at("images/bad_truncated.nii.gz"),
    )
    .unwrap();
    run(folder.path(), &["predict", "images", "-o", "out"], 3);
    assert_kept(&before, &at("out"));
    let failures = std::fs::read_to_string(at("out/failures.jsonl")).unwrap();
    assert!(
        failures.lines().count() == 1 && failures.contains("bad_four"),
        "{failures}"
    );
    let counts = serde_json::json!({"done": 1, "kept": 58, "failed": 1, "pending": 0});
    assert_eq!(json(&at("out/predictions.json"))["counts"], counts);
}

#[test]
fn only_damaged_and_missing_outputs_are_predicted_again() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    batch(folder.path(), 6);
    run(folder.path(), &["predict", "images", "-o", "out"], 0);
    run(folder.path(), &["predict", "images", "-o", "sound"], 0);
    let cut = std::fs::read(at("out/case_00.nii.gz")).unwrap();
    std::fs::write(at("out/case_00.nii.gz"), &cut[..cut.len() - 9]).unwrap();
    let mut changed = std::fs::read(at("out/case_01.nii.gz")).unwrap();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    std::fs::write(at("out/case_01.nii.gz"), changed).unwrap();
    std::fs::remove_file(at("out/case_02.nii.gz")).unwrap();
    // As left by a killed run.
    let started =
        r#"{"state": "writing", "input": "", "ctseg_version": "", "files": ["case_03.nii.gz"]}"#;
    std::fs::write(at("out/case_03.json"), started).unwrap();
    // Temporary files of a killed run, and of one that may still be running.
    let dead = at("out/.ctseg-01234567-1-1-abcdef");
    std::fs::write(&dead, "half").unwrap();
    let old = std::time::SystemTime::now() - Duration::from_secs(100_000);
    std::fs::File::options()
        .write(true)
        .open(&dead)
        .unwrap()
        .set_modified(old)
        .unwrap();
    std::fs::write(at("out/.ctseg-01234567-2-2-abcdef"), "half").unwrap();
    let summary = run_json(
        folder.path(),
        &["predict", "images", "-o", "out", "--json"],
        0,
    );
    let expected = [0, 1, 2, 3].map(|index| format!("out/case_{index:02}.nii.gz"));
    assert_eq!(summary["written"], serde_json::json!(expected));
    assert_eq!(summary["kept"].as_array().unwrap().len(), 2);
    assert_same_results(&at("out"), &at("sound"));
    assert!(!dead.exists() && at("out/.ctseg-01234567-2-2-abcdef").exists());
}

#[test]
fn a_batch_killed_ten_times_writes_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    batch(folder.path(), 30);
    run(
        folder.path(),
        &["predict", "images", "-o", "undisturbed"],
        0,
    );
    let mut moment: u64 = 12345;
    for _ in 0..10 {
        let before = sidecars(&out);
        let mut child = ctseg(folder.path(), &["predict", "images", "-o", "out"])
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait_until(&mut child, || files(&out, ".json").len() > before.len() + 1);
        moment = moment
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        std::thread::sleep(Duration::from_micros((moment >> 33) % 60_000));
        let _ = child.kill();
        child.wait().unwrap();
        assert_kept(&before, &out);
        for name in files(&out, ".nii.gz") {
            read_labels(&out.join(&name)).unwrap();
        }
    }
    let before = sidecars(&out);
    run(folder.path(), &["predict", "images", "-o", "out"], 0);
    assert_kept(&before, &out);
    assert_same_results(&folder.path().join("undisturbed"), &out);
    assert_eq!(temp_files(&out), 0);
}

#[test]
fn a_signal_stops_the_batch_after_the_current_case() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    batch(folder.path(), 40);
    for name in ["-TERM", "-INT"] {
        let before = sidecars(&out);
        let mut child = ctseg(folder.path(), &["predict", "images", "-o", "out"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        wait_until(&mut child, || files(&out, ".json").len() > before.len() + 2);
        signal(&child, name);
        assert_eq!(child.wait().unwrap().code(), Some(75), "{name}");
        let manifest = json(&out.join("predictions.json"));
        assert_eq!(
            (&manifest["ended"], &manifest["interrupted"]),
            (&true.into(), &true.into())
        );
        let counts = &manifest["counts"];
        let done = counts["done"].as_u64().unwrap() + counts["kept"].as_u64().unwrap();
        assert_eq!(done as usize, sidecars(&out).len(), "{counts}");
        assert_eq!(done + counts["pending"].as_u64().unwrap(), 40, "{counts}");
        assert_eq!(temp_files(&out), 0);
        assert_kept(&before, &out);
    }
    let before = sidecars(&out);
    run(folder.path(), &["predict", "images", "-o", "out"], 0);
    assert_kept(&before, &out);
    assert_eq!(sidecars(&out).len(), 40);
}

/// A mounted tmpfs.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` if mounting is not permitted.
    fn mounted(at: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let size = format!("size={size}");
        let arguments = ["-t", "tmpfs", "-o", &size, "none", at.to_str().unwrap()];
        let mounted = Command::new("mount")
            .args(arguments)
            .stderr(Stdio::null())
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then(|| Self(at.to_path_buf()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_fails_only_the_cases_that_do_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    batch(folder.path(), 40);
    let Some(tiny) = SmallDisk::mounted(&folder.path().join("tiny"), "400k") else {
        println!("skipped: file systems cannot be mounted here");
        return;
    };
    let log = stderr(&run(folder.path(), &["predict", "images", "-o", "tiny"], 1));
    assert!(log.contains("too little disk space"), "{log}");
    drop(tiny);

    let _disk = SmallDisk::mounted(&out, "8m").unwrap();
    let mut child = ctseg(folder.path(), &["predict", "images", "-o", "out"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until(&mut child, || sidecars(&out).len() > 2);
    // Another process fills the disk.
    let _ = std::fs::write(out.join("filler"), vec![1; 16 << 20]);
    let output = child.wait_with_output().unwrap();
    let log = String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{log}");
    assert!(
        log.contains("stopped before the end") && log.contains("No space"),
        "{log}"
    );
    for name in files(&out, ".nii.gz") {
        read_labels(&out.join(&name)).unwrap();
    }
    let before = sidecars(&out);
    assert!(
        before.len() < 40,
        "all cases finished before the disk was full"
    );
    std::fs::remove_file(out.join("filler")).unwrap();
    run(folder.path(), &["predict", "images", "-o", "out"], 0);
    assert_kept(&before, &out);
    assert_eq!(sidecars(&out).len(), 40);
    assert!(!out.join("failures.jsonl").exists());
}
