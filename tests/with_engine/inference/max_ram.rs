//! A limit of memory: kept to where it can be; what cannot be made within it fails with the figure that would do.

use std::path::Path;

use crate::common::{publish_random, run, small_recipe, stderr};
use ctseg_image::nifti::{VoxelType, write_volume};
use ctseg_image::space::{Grid, Volume};
use ndarray::Array3;
use serde_json::Value;

/// A volume of some size with something in it.
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

/// What the message says would do for the volume with this name, in MB.
fn least(message: &str, name: &str) -> u64 {
    let needed = message.split(&format!("{name}: needs ")).nth(1);
    let needed = needed.unwrap_or_else(|| panic!("nothing of {name}: {message}"));
    needed.split('M').next().unwrap().parse().unwrap()
}

#[test]
fn what_is_made_of_probabilities_is_counted_and_the_limit_kept() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    // A fine volume and a coarse model: all of it is one portion, and would be restored at once.
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
        // Of more threads each would need room for lines of its own, and that would hide the difference.
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
    let told = ["--save-entropy", "--save-probabilities=f16"];
    let least = |told: &[&str]| least(&stderr(&predict("30M", "none", told, 1)), "fine.nii.gz");
    let (plain, enough) = (least(&[]), least(&told));
    assert!(enough > plain, "{enough} MB with them, {plain} MB without");
    let enough = enough + 4;
    predict(&format!("{enough}M"), "just", &told, 0);
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
fn a_limit_is_kept_or_refused_with_the_figure_that_would_do() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    volume(&here.join("scans/large.nii.gz"), [110, 100, 90]);
    volume(&here.join("scans/small.nii.gz"), [40, 30, 30]);
    std::fs::write(here.join("scans/broken.nii.gz"), "no image").unwrap();
    // 20 m on each side: fails by itself, and costs no other volume its place.
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
    // What cannot be brought to its end is not begun, and costs no other volume its place.
    let refused = stderr(&predict("30M", "none", 1));
    assert!(!here.join("none/small.nii.gz").exists());
    let [large, small] = ["large.nii.gz", "small.nii.gz"].map(|name| least(&refused, name));
    assert!(large > small + 4, "{large} MB and {small} MB");
    predict(&format!("{}M", small + 4), "some", 3);
    assert!(here.join("some/small.nii.gz").exists());
    assert!(!here.join("some/large.nii.gz").exists());
    // A little more than the figure, which is taken anew in every process.
    let enough = large + 4;
    predict(&format!("{enough}M"), "just", 3);
    let peak = peak_mb(&here.join("just/large.json"));
    assert!(
        peak <= enough as f64,
        "{peak} MB where {enough} MB are allowed"
    );
    assert!(
        enough as f64 <= peak + 150.0,
        "{peak} MB taken, {enough} MB asked for"
    );
    // The same labels with as much as one likes.
    predict("8G", "ample", 3);
    for name in ["large.nii.gz", "small.nii.gz"] {
        let [a, b] = ["just", "ample"].map(|out| std::fs::read(here.join(out).join(name)).unwrap());
        assert!(a == b, "{name}");
    }
}

/// What `predict` asks for at least and what it then takes, in MB, of a volume in which stage 1 finds nothing.
fn asked_and_taken(side: usize) -> [f64; 2] {
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
    let said = std::fs::read_to_string(&sidecar).unwrap();
    assert!(said.contains("stage 1 found nothing"), "{said}");
    [asked as f64, peak_mb(&sidecar)]
}

#[test]
fn little_more_is_asked_for_than_is_taken() {
    let [asked, taken] = asked_and_taken(100);
    assert!(taken <= asked + 4.0, "{asked} MB asked for, {taken} taken");
    assert!(
        asked <= taken + 150.0,
        "{asked} MB asked for, {taken} taken"
    );
}

/// Minutes: `cargo test --test with_engine -- --ignored --nocapture asked_for`
#[test]
#[ignore = "takes minutes and gigabytes; prints what is asked for and taken"]
fn what_is_asked_for_and_taken_by_size() {
    println!("side  asked MB  taken MB  ratio");
    let mut wrong = Vec::new();
    for side in [32, 64, 128, 192, 256, 320, 384] {
        let [asked, taken] = asked_and_taken(side);
        println!("{side:4}  {asked:8}  {taken:8}  {:.2}", asked / taken);
        let most = match side < 256 {
            true => taken + 150.0,
            false => 1.3 * taken,
        };
        if taken > asked + 4.0 || asked > most {
            wrong.push(side);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}
