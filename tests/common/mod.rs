//! Shared by the integration tests: small phantoms on disk, models with random weights, the binary.

#![allow(dead_code)] // each test file uses its own part

pub mod batches;
pub mod browser;
pub mod captured_log;
pub mod fake_mlflow;
#[cfg(target_os = "linux")]
pub mod faults;
pub mod levels;
pub mod mlflow;
pub mod nnunet;
pub mod runs;
pub mod tiny_ct;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

use ctseg_base::progress::Silent;
use ctseg_core::dataset::Structure;
use ctseg_core::dataset::generated::phantoms::PhantomSet;
use ctseg_core::model::bundle::{Bundle, TrainedStage};
use ctseg_core::model::manifest::{FoldManifest, StageManifest};
use ctseg_core::recipe::Recipe;
use ctseg_core::recipe::output_maps::output_maps;
use ctseg_engine::device::{Compute, DeviceChoice};
use ctseg_engine::precision::PrecisionChoice;
use ctseg_engine::weights::network_tensors;
use serde_json::Value;

/// The engines of this build, as `--device` names them.
pub fn engines() -> Vec<&'static str> {
    let mut engines = vec!["flex"];
    if cfg!(feature = "libtorch") {
        engines.push("libtorch");
    }
    engines
}

/// A command that runs the binary in `folder` with plain output.
pub fn ctseg(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ctseg"));
    command
        .current_dir(folder)
        .args(arguments)
        // Ignore the settings of the user who runs the tests.
        .env("XDG_CONFIG_HOME", "/no/such/folder")
        .env_remove("RUST_BACKTRACE");
    let ours = |name: &String| {
        ["CTSEG_", "MLFLOW_"]
            .iter()
            .any(|own| name.starts_with(own))
    };
    for (name, _) in std::env::vars().filter(|(name, _)| ours(name)) {
        command.env_remove(name);
    }
    command
}

/// Runs the binary; panics with its output unless it exits with `code`.
pub fn run(folder: &Path, arguments: &[&str], code: i32) -> Output {
    let output = ctseg(folder, arguments).output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(code),
        "ctseg {arguments:?}\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// The JSON that the binary writes to stdout; panics unless it exits with `code`.
pub fn run_json(folder: &Path, arguments: &[&str], code: i32) -> Value {
    serde_json::from_slice(&run(folder, arguments, code).stdout).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The engine of `--device auto`.
pub fn compute() -> Compute {
    Compute::open(DeviceChoice::Auto, PrecisionChoice::Auto, 2).unwrap()
}

/// Writes phantoms below `folder` and returns their descriptor.
pub fn phantoms(folder: &Path, train: usize, test: usize) -> PathBuf {
    PhantomSet {
        train,
        test,
        seed: 3,
    }
    .written(folder, &Silent)
    .unwrap()
}

/// Settings that make a stage train in seconds.
pub const SMALL: [&str; 10] = [
    "--set",
    "network.widths=[4, 8]",
    "--set",
    "spacing_mm=[14.0, 14.0, 14.0]",
    "--set",
    "folds=2",
    "--set",
    "training.batch_size=4",
    "--set",
    "training.augmentation.enabled=false",
];

/// A small version of a built-in recipe, with `overrides` on top.
pub fn small_recipe(stage: &str, overrides: &[&str]) -> Recipe {
    let mut set: Vec<String> = SMALL
        .iter()
        .filter(|text| **text != "--set")
        .map(|text| (*text).to_owned())
        .collect();
    set.extend(overrides.iter().map(|text| (*text).to_owned()));
    Recipe::named(stage, &set).unwrap()
}

/// Two structures for models that are not trained.
pub fn two_structures() -> Vec<Structure> {
    [(1, "liver"), (300, "spleen")]
        .map(|(value, name)| Structure {
            value,
            name: name.to_owned(),
        })
        .to_vec()
}

/// Publishes a stage whose networks have random weights, one per fold of `folds` (held-out cases).
pub fn publish_random(model: &Path, recipe: &Recipe, folds: &[&[&str]]) {
    let device = DeviceChoice::Auto.device().unwrap();
    let structures = two_structures();
    let values: Vec<u16> = structures.iter().map(|s| s.value).collect();
    let outputs = output_maps(recipe, &values).len();
    // The engine has one random generator per process, and `cargo test` runs tests in parallel.
    static SEEDING: Mutex<()> = Mutex::new(());
    let weights = (0..folds.len())
        .map(|fold| {
            let _alone = SEEDING.lock().unwrap_or_else(PoisonError::into_inner);
            device.seed(100 * u64::from(recipe.stage) + fold as u64);
            let network = recipe
                .network
                .init(recipe.channels(), outputs, &device)
                .unwrap();
            let mut weights = network_tensors(&network).unwrap();
            // Features are 0 in air and never negative: weights of both signs and a small bias make heads
            // that mark some voxels and not others.
            let head = weights.get_mut("head.weight").unwrap();
            for (index, value) in head.values.iter_mut().enumerate() {
                let sign = if index % 2 == 0 { 1.0 } else { -1.0 };
                *value = sign * value.abs();
            }
            weights.get_mut("head.bias").unwrap().values.fill(0.01);
            weights
        })
        .collect();
    let stage1_sha256 = match recipe.stage {
        2 if recipe.region == ctseg_core::recipe::Region::Roi => Bundle::open(model)
            .unwrap()
            .stage_sha256(1)
            .map(str::to_owned),
        _ => None,
    };
    let manifest = StageManifest {
        dataset: "none".to_owned(),
        data_fingerprint: String::new(),
        seed: 0,
        engine: "none".to_owned(),
        stage1_sha256,
        channel: None,
        folds: folds
            .iter()
            .enumerate()
            .map(|(fold, held_out)| FoldManifest {
                input_ranges: None,
                fold,
                epoch: 1,
                validation_dice: None,
                held_out: held_out.iter().map(|id| (*id).to_owned()).collect(),
                trained_on: Vec::new(),
            })
            .collect(),
        image_sha256: Default::default(),
        recipe: recipe.clone(),
    };
    Bundle::publish(model, &structures, TrainedStage { manifest, weights }).unwrap();
}

/// Publishes a two-stage model with random weights at `model`; `stage1` overrides its first recipe.
pub fn random_model(model: &Path, stage1: &[&str]) {
    publish_random(model, &small_recipe("1", stage1), &[&[]]);
    publish_random(
        model,
        &small_recipe(
            "refine2_5d",
            &["spacing_mm=[5.0, 5.0, 6.0]", "train_folds=[0]"],
        ),
        &[&[]],
    );
}
