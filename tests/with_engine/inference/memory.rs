//! Volumes that need more memory than available, regardless of their file size: only they fail, and from the header.

use std::fs::OpenOptions;
use std::path::Path;

use crate::common::batches::{ball, files, json};
use crate::common::{ctseg, publish_random, small_recipe, stderr};
use ctseg_image::nifti::{VoxelType, write_volume};
use ctseg_image::space::{Grid, Volume};
use ndarray::Array3;

/// A volume of air.
fn air(path: &Path, side: usize, spacing_mm: f64) {
    let grid = Grid::with_spacing([side; 3], [spacing_mm; 3]);
    let data = Array3::from_elem([side; 3], -1000.0);
    write_volume(path, &Volume { grid, data }, VoxelType::I16).unwrap();
}

/// Three small volumes, and volumes with very large extents or voxel counts.
fn scans(folder: &Path) {
    for index in 0..3 {
        let grid = Grid::with_spacing([14, 14, 12], [6.0; 3]);
        let path = folder.join(format!("case_{index}.nii.gz"));
        write_volume(&path, &ball(index, grid), VoxelType::I16).unwrap();
    }
    air(&folder.join("a_large.nii"), 4, 700.0);
    air(&folder.join("b_tiny.nii"), 4, 1e-3);
    sparse(&folder.join("c_wide.nii"), [1500, 1500, 1000], 10.0, 0);
    // These are refused from the header, the second for its length: reading them would take minutes and hours.
    sparse(&folder.join("d_vast.nii"), [5000, 5000, 2000], 0.4, 0);
    sparse(&folder.join("e_long.nii"), [20_000, 20_000, 8000], 0.1, -2);
}

/// A sparse file of zeros with `more` bytes than its header declares (NIfTI-1, dim is at byte 40).
fn sparse(path: &Path, sides: [i16; 3], spacing_mm: f64, more: i64) {
    air(path, 4, spacing_mm);
    let mut header = std::fs::read(path).unwrap();
    for (axis, side) in sides.into_iter().enumerate() {
        header[42 + 2 * axis..44 + 2 * axis].copy_from_slice(&side.to_le_bytes());
    }
    std::fs::write(path, &header[..352]).unwrap();
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let voxels: i64 = sides.into_iter().map(i64::from).product();
    let bytes = 352 + 2 * voxels + more;
    file.set_len(u64::try_from(bytes).unwrap()).unwrap();
}

/// A model whose grid is so fine that the large volume exceeds the memory of any machine.
fn model(folder: &Path) {
    let set = [
        "region=whole",
        "prior=false",
        "train_folds=[0]",
        "network.widths=[4, 8]",
        "spacing_mm=[0.75, 0.75, 0.75]",
        "training.patch_size=[128, 128, 128]",
    ];
    publish_random(folder, &small_recipe("refine", &set), &[&[]]);
}

/// The number of label maps in a folder.
fn maps(folder: &Path) -> usize {
    files(folder, ".nii.gz").len() + files(folder, ".nii").len()
}

/// The line about the failure of this volume.
fn failure_line(log: &str, name: &str) -> String {
    let about = format!("{name}: ");
    let line = log.lines().find(|line| line.contains(&about));
    line.unwrap_or_else(|| panic!("no line for {name}: {log}"))
        .to_owned()
}

#[test]
fn a_volume_that_exceeds_memory_does_not_affect_others() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    std::fs::create_dir(here.join("scans")).unwrap();
    scans(&here.join("scans"));
    model(&here.join("model"));
    for (out, limit) in [("plain", &[][..]), ("limited", &["--max-ram", "6G"][..])] {
        // Finished cases are kept by the second run, and the others fail again.
        for _ in 0..2 {
            let arguments = [&["predict", "scans", "-o", out][..], limit].concat();
            let output = ctseg(here, &arguments).output().unwrap();
            let log = stderr(&output);
            assert_eq!(output.status.code(), Some(3), "{log}");
            assert_eq!(maps(&here.join(out)), 4, "{log}");
            let large = failure_line(&log, "a_large.nii");
            assert!(
                large.contains("4 × 4 × 4 voxels become 3733 × 3733 × 3733"),
                "{large}"
            );
            assert!(large.contains("M of memory, but"), "{large}");
            assert_eq!(
                large.contains("--max-ram is 6144M"),
                limit.len() == 2,
                "{large}"
            );
            let wide = failure_line(&log, "c_wide.nii");
            assert!(wide.contains("spans 15000 × 15000 × 10000 mm"), "{wide}");
            let vast = failure_line(&log, "d_vast.nii");
            assert!(vast.contains("M of memory, but"), "{vast}");
            failure_line(&log, "e_long.nii");
            let failures = std::fs::read_to_string(here.join(out).join("failures.jsonl")).unwrap();
            assert_eq!(failures.lines().count(), 4, "{failures}");
        }
        let manifest = json(&here.join(out).join("predictions.json"));
        assert_eq!(manifest["counts"]["kept"], 4);
    }
}

#[test]
fn voxel_counts_beyond_the_limit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    std::fs::create_dir(here.join("scans")).unwrap();
    air(&here.join("scans/odd.nii"), 4, 700.0);
    let set = [
        "region=whole",
        "prior=false",
        "train_folds=[0]",
        "network.widths=[4, 8]",
        "spacing_mm=[0.05, 0.05, 0.05]",
        "training.patch_size=[16, 16, 16]",
    ];
    publish_random(&here.join("model"), &small_recipe("refine", &set), &[&[]]);
    for limit in [&[][..], &["--max-ram", "1G"]] {
        let arguments = [&["predict", "scans", "-o", "out"][..], limit].concat();
        let output = ctseg(here, &arguments).output().unwrap();
        let log = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{log}");
        let line = failure_line(&log, "odd.nii");
        assert!(line.contains("56000 × 56000 × 56000 voxels"), "{line}");
    }
}

/// `ctseg` with an address space of `bytes`.
#[cfg(not(feature = "libtorch"))]
fn with_address_space(folder: &Path, bytes: u64, arguments: &[&str]) -> std::process::Output {
    let kilobytes = bytes >> 10;
    let shell = format!("ulimit -v {kilobytes} && exec \"$0\" \"$@\"");
    let mut command = std::process::Command::new("bash");
    command
        .args(["-c", &shell, env!("CARGO_BIN_EXE_ctseg")])
        .args(arguments)
        .env("CTSEG_THREADS", "1")
        .current_dir(folder);
    command.output().unwrap()
}

#[test]
#[cfg(not(feature = "libtorch"))] // whose libraries already map gigabytes
fn the_address_space_limit_is_respected() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    std::fs::create_dir(here.join("scans")).unwrap();
    scans(&here.join("scans"));
    // At 3 mm the large volume takes 3.3 GB for each of several arrays.
    let set = [
        "region=whole",
        "prior=false",
        "train_folds=[0]",
        "network.widths=[4, 8]",
        "spacing_mm=[3.0, 3.0, 3.0]",
        "training.patch_size=[32, 32, 32]",
    ];
    publish_random(&here.join("model"), &small_recipe("refine", &set), &[&[]]);
    let output = with_address_space(here, 4 << 30, &["predict", "scans", "-o", "out"]);
    let log = stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{log}");
    let large = failure_line(&log, "a_large.nii");
    assert!(large.contains("933 × 933 × 933"), "{large}");
    assert!(large.contains("this process can use"), "{large}");
    assert_eq!(maps(&here.join("out")), 4, "{log}");
    // Heaps of threads, of which each would reserve 64 MiB, do not count as used.
    for limit_mb in [200, 300, 400] {
        let out = format!("below_{limit_mb}");
        let arguments = [
            "predict",
            "scans/case_0.nii.gz",
            "-o",
            &out,
            "--threads",
            "4",
        ];
        let output = with_address_space(here, limit_mb << 20, &arguments);
        assert!(output.status.success(), "{}", stderr(&output));
    }
}
