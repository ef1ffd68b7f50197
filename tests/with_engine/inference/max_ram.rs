//! Memory limits: cases that need more fail with the required amount.

use std::path::Path;

use crate::common::{publish_random, run, small_recipe, stderr};
use ctseg_image::nifti::{VoxelType, write_volume};
use ctseg_image::space::{Grid, Volume};
use ndarray::Array3;
use serde_json::Value;

/// A volume of this shape with varying values.
fn volume(path: &Path, shape: [usize; 3]) {
    let grid = Grid::with_spacing(shape, [2.0, 2.0, 2.0]);
    let [z, y, x] = grid.shape_zyx();
    let data = Array3::from_shape_fn((z, y, x), |(z, y, x)| {
        ((z * 31 + y * 17 + x * 7) % 900) as f32 - 500.0
    });
    write_volume(path, &Volume { grid, data }, VoxelType::I16).unwrap();
}

fn peak_mb(sidecar: &Path) -> f64 {
    let read: Value = serde_json::from_slice(&std::fs::read(sidecar).unwrap()).unwrap();
    read["peak_memory_mb"].as_f64().unwrap()
}

/// The required memory that the message gives for this volume, in MB.
fn least(message: &str, name: &str) -> u64 {
    let needed = message.split(&format!("{name}: needs at least ")).nth(1);
    let needed = needed.unwrap_or_else(|| panic!("no line for {name}: {message}"));
    needed.split('M').next().unwrap().parse().unwrap()
}

#[test]
fn probability_outputs_count_towards_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    // A fine volume and a coarse model: it is one chunk, and would be resampled at once.
    volume(&here.join("scans/fine.nii.gz"), [250, 240, 220]);
    let set = [
        "region=whole",
        "prior=false",
        "train_folds=[0]",
        "outputs=exclusive",
        "training.loss=ce_dice",
        "network.widths=[4, 8]",
        "spacing_mm=[12.0, 12.0, 12.0]",
        "training.patch_size=[16, 16, 16]",
    ];
    publish_random(&here.join("model"), &small_recipe("refine", &set), &[&[]]);
    let predict = |limit: &str, out: &str, more: &[&str], code| {
        // More threads need more buffers, which would hide the difference.
        let arguments = [
            "predict",
            "scans",
            "-o",
            out,
            "--threads",
            "2",
            "--max-ram",
            limit,
        ];
        run(here, &[&arguments[..], more].concat(), code)
    };
    let outputs = ["--save-entropy", "--save-probabilities=f16"];
    let least =
        |outputs: &[&str]| least(&stderr(&predict("30M", "none", outputs, 1)), "fine.nii.gz");
    let (plain, enough) = (least(&[]), least(&outputs));
    assert!(enough > plain, "{enough} MB with them, {plain} MB without");
    let enough = enough + 4;
    predict(&format!("{enough}M"), "just", &outputs, 0);
    let peak = peak_mb(&here.join("just/fine.json"));
    assert!(
        peak <= enough as f64,
        "{peak} MB where {enough} MB are allowed"
    );
    predict("8G", "ample", &[], 0);
    let [a, b] = ["just", "ample"].map(|out| std::fs::read(here.join(out).join("fine.nii.gz")));
    assert!(a.unwrap() == b.unwrap());
}

#[test]
fn a_limit_is_kept_or_refused_with_the_required_amount() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    volume(&here.join("scans/large.nii.gz"), [110, 100, 90]);
    volume(&here.join("scans/small.nii.gz"), [40, 30, 30]);
    std::fs::write(here.join("scans/broken.nii.gz"), "no image").unwrap();
    // 20 m on each side: fails without affecting other volumes.
    let untrue = Grid::with_spacing([20, 20, 20], [1000.0; 3]);
    let data = Array3::zeros((20, 20, 20));
    let path = here.join("scans/untrue.nii.gz");
    write_volume(&path, &Volume { grid: untrue, data }, VoxelType::I16).unwrap();
    let set = [
        "region=whole",
        "prior=false",
        "train_folds=[0]",
        "network.widths=[4, 8]",
        "spacing_mm=[2.5, 2.5, 2.5]",
        "training.patch_size=[32, 32, 32]",
        "training.batch_size=8",
    ];
    publish_random(&here.join("model"), &small_recipe("refine", &set), &[&[]]);
    let predict = |limit: &str, out: &str, code| {
        run(
            here,
            &["predict", "scans", "-o", out, "--max-ram", limit],
            code,
        )
    };
    // A case that cannot finish is not started, and does not affect other volumes.
    let refused = stderr(&predict("30M", "none", 1));
    assert!(!here.join("none/small.nii.gz").exists());
    let [large, small] = ["large.nii.gz", "small.nii.gz"].map(|name| least(&refused, name));
    assert!(large > small + 4, "{large} MB and {small} MB");
    predict(&format!("{}M", small + 4), "some", 3);
    assert!(here.join("some/small.nii.gz").exists());
    assert!(!here.join("some/large.nii.gz").exists());
    // A little more than the reported amount, which each process measures again.
    let enough = large + 4;
    predict(&format!("{enough}M"), "just", 3);
    let peak = peak_mb(&here.join("just/large.json"));
    assert!(
        peak <= enough as f64,
        "{peak} MB where {enough} MB are allowed"
    );
    assert!(
        enough as f64 <= peak + 150.0,
        "{peak} MB used, {enough} MB required"
    );
    // The same labels without a tight limit.
    predict("8G", "ample", 3);
    for name in ["large.nii.gz", "small.nii.gz"] {
        let [a, b] = ["just", "ample"].map(|out| std::fs::read(here.join(out).join(name)).unwrap());
        assert!(a == b, "{name}");
    }
}

/// The memory that `predict` requires, and its peak, in MB, for a volume in which stage 1 finds nothing.
fn required_and_peak(side: usize) -> [f64; 2] {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    volume(&here.join("scans/case.nii.gz"), [side; 3]);
    let first = ["roi.threshold=0.99999", "train_folds=[0]"];
    publish_random(&here.join("model"), &small_recipe("1", &first), &[&[]]);
    let second = [
        "train_folds=[0]",
        "network.widths=[8, 16, 32]",
        "training.patch_size=[48, 80, 80]",
        "spacing_mm=[3.0, 3.0, 3.0]",
    ];
    publish_random(
        &here.join("model"),
        &small_recipe("refine", &second),
        &[&[]],
    );
    let predict = |limit: &str, code| {
        let arguments = ["predict", "scans", "-o", "out", "--threads", "2"];
        let limit = ["--max-ram", limit];
        run(here, &[&arguments[..], &limit].concat(), code)
    };
    let asked = least(&stderr(&predict("30M", 1)), "case.nii.gz");
    predict(&format!("{}M", asked + 4), 0);
    let sidecar = here.join("out/case.json");
    let log = std::fs::read_to_string(&sidecar).unwrap();
    assert!(log.contains("stage 1 found nothing"), "{log}");
    [asked as f64, peak_mb(&sidecar)]
}

#[test]
fn the_required_memory_is_close_to_the_peak() {
    let [required, peak] = required_and_peak(100);
    assert!(
        peak <= required + 4.0,
        "{required} MB required, {peak} used"
    );
    assert!(
        required <= peak + 150.0,
        "{required} MB required, {peak} used"
    );
}

/// Minutes: `cargo test --test with_engine -- --ignored --nocapture required_memory`
#[test]
#[ignore = "takes minutes and gigabytes; prints the memory required and the peak"]
fn required_memory_and_peak_by_size() {
    println!("side  required MB  peak MB  ratio");
    let mut wrong = Vec::new();
    for side in [32, 64, 128, 192, 256, 320, 384] {
        let [required, peak] = required_and_peak(side);
        println!("{side:4}  {required:8}  {peak:8}  {:.2}", required / peak);
        let most = match side < 256 {
            true => peak + 150.0,
            false => 1.3 * peak,
        };
        if peak > required + 4.0 || required > most {
            wrong.push(side);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}
