//! The number of data-loader threads does not change the weights, bit for bit, on each engine.

use std::path::Path;

use crate::common::{ctseg, phantoms, run, stderr};
use ctseg_core::run::checkpoint::{Checkpoint, CheckpointFolder};

/// Every augmentation, always.
const ALL_ON: &str = "training.augmentation={ rotation_probability = 1, scale_probability = 1, elastic_probability = 1, noise_probability = 1, blur_probability = 1, brightness_probability = 1, contrast_probability = 1, low_resolution_probability = 1, field_of_view_probability = 0.5, hu_shift_probability = 1, metal_probability = 0.7, coarse_dropout_probability = 1, gamma_probability = 1, inverted_gamma_probability = 1, flip_axes = ['y'] }";

const SMALL: [&str; 7] = [
    "region=whole",
    "prior=false",
    "network.widths=[4, 8]",
    "spacing_mm=[14.0, 14.0, 14.0]",
    "folds=2",
    "training.curriculum={ epochs = 3, easiest = 0.4 }",
    ALL_ON,
];

/// Trains a few steps on phantoms with every random option on; returns the last checkpoint and the model.
fn trained(
    folder: &Path,
    data: &Path,
    settings: &[&str],
    engine: &str,
    loaders: Option<usize>,
) -> (Checkpoint, Vec<u8>) {
    let loaders = loaders.map(|count| count.to_string());
    let mut arguments = vec!["fit", "--data", data.to_str().unwrap(), "--epochs", "2"];
    arguments.extend(["--device", engine, "--precision", "f32", "--threads", "2"]);
    if let Some(loaders) = &loaders {
        arguments.extend(["--loader-threads", loaders]);
    }
    arguments.extend(["--fold", "0", "--stage", settings[0]]);
    for setting in settings[1..].iter().chain(&SMALL) {
        arguments.extend(["--set", setting]);
    }
    run(folder, &arguments, 0);
    let mut runs = std::fs::read_dir(folder.join("runs")).unwrap();
    let run = runs.next().unwrap().unwrap().path();
    let last = CheckpointFolder::new(run.join("checkpoints/fold_0")).last();
    let model = std::fs::read(folder.join("model/stage2.safetensors")).unwrap();
    (Checkpoint::load(&last).unwrap(), model)
}

fn same_weights_on(engine: &str) {
    let data = tempfile::tempdir().unwrap();
    let descriptor = phantoms(data.path(), 4, 0);
    let volumes: &[&str] = &[
        "refine",
        "training.patch_size=[8, 16, 16]",
        "training.patches_per_epoch=6",
    ];
    let slices: &[&str] = &[
        "single",
        "training.patch_size=[16, 24]",
        "training.slice_sampling=balanced",
        "training.patches_per_epoch=24",
        "training.batch_size=5",
        "network.neighbours=1",
    ];
    for settings in [volumes, slices] {
        let of = |loaders: Option<usize>| {
            let folder = tempfile::tempdir().unwrap();
            trained(folder.path(), &descriptor, settings, engine, loaders)
        };
        let (first, model) = of(Some(1));
        assert!(first.progress.optimiser_steps > 4);
        for loaders in [Some(4), None] {
            let (other, same_model) = of(loaders);
            assert!(model == same_model, "{engine} {} {loaders:?}", settings[0]);
            assert!(first.network == other.network && first.optimiser == other.optimiser);
        }
    }
}

#[test]
fn loader_threads_do_not_change_weights_on_flex() {
    same_weights_on("flex");
}

#[cfg(feature = "libtorch")]
#[test]
fn loader_threads_do_not_change_weights_on_libtorch() {
    same_weights_on("libtorch");
}

#[test]
fn invalid_numbers_of_loader_threads_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (wrong, expected) in [("0", "--loader-threads 0"), ("9999", "1 to 4096")] {
        let output = run(
            folder.path(),
            &["fit", "--stage", "slices", "--loader-threads", wrong],
            2,
        );
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
    let output = ctseg(folder.path(), &["fit", "--stage", "slices"])
        .env("CTSEG_LOADER_THREADS", "0")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}
