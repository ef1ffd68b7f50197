//! The epoch whose weights, or weight average, are published; through the binary.

use std::path::{Path, PathBuf};

use crate::common::{SMALL, phantoms, run, run_json, stderr};
use ctseg_core::run::checkpoint::{Checkpoint, CheckpointFolder};
use ctseg_engine::weights::{NamedTensors, below_prefix, read_tensors};

/// Trains one fold with `overrides` in `folder`; returns its run and its summary.
fn trained(folder: &Path, data: &Path, overrides: &[&str]) -> (PathBuf, serde_json::Value) {
    let data = data.to_str().unwrap();
    let mut arguments = vec![
        "--json", "fit", "--stage", "1", "--data", data, "--fold", "0",
    ];
    arguments.extend(["--epochs", "3"]);
    arguments.extend(SMALL);
    for text in overrides {
        arguments.extend(["--set", text]);
    }
    let summary = run_json(folder, &arguments, 0);
    let run = folder.join(summary["run"].as_str().unwrap());
    (run, summary["folds"][0].clone())
}

fn checkpoints(run: &Path) -> CheckpointFolder {
    CheckpointFolder::new(run.join("checkpoints/fold_0"))
}

fn in_model(folder: &Path) -> NamedTensors {
    let (tensors, _) = read_tensors(&folder.join("model/stage1.safetensors")).unwrap();
    below_prefix("fold_0.", &tensors)
}

fn manifest(folder: &Path) -> toml::Value {
    let text = std::fs::read_to_string(folder.join("model/model.toml")).unwrap();
    let manifest: toml::Value = toml::from_str(&text).unwrap();
    manifest["stage1"]["folds"][0].clone()
}

/// Weights that hardly change: no epoch is better than the first, so the best is not the last.
const CONSTANT: [&str; 2] = [
    "training.optimiser.learning_rate=1e-9",
    "network.norm=instance",
];

#[test]
fn the_best_epoch_is_published_unless_the_recipe_keeps_the_last() {
    let data = tempfile::tempdir().unwrap();
    let descriptor = phantoms(data.path(), 4, 0);
    for keep in ["best", "last"] {
        let folder = tempfile::tempdir().unwrap();
        let set = [CONSTANT[0], CONSTANT[1], &format!("training.keep={keep}")];
        let (run_folder, fold) = trained(folder.path(), &descriptor, &set);
        let checkpoints = checkpoints(&run_folder);
        let best = Checkpoint::load(&checkpoints.best()).unwrap();
        let mut last = Checkpoint::load(&checkpoints.last()).unwrap();
        assert_eq!((best.progress.epoch, last.progress.epoch), (1, 3));
        assert!(best.network != last.network);
        let kept = if keep == "best" { &best } else { &last };
        assert!(in_model(folder.path()) == kept.network, "{keep}");

        let dice = kept.progress.last_validation.as_ref().unwrap().dice;
        let manifest_before = manifest(folder.path());
        let epoch = kept.progress.epoch as i64;
        assert_eq!(manifest_before["epoch"].as_integer(), Some(epoch));
        assert_eq!(manifest_before["validation_dice"].as_float(), dice);
        assert_eq!(fold["kept"]["epoch"].as_i64(), Some(epoch), "{fold}");
        assert_eq!(fold["kept"]["validation_dice"].as_f64(), dice);
        assert_eq!(fold["progress"]["best"][0], 1);

        // A finished run resumes, even if its checkpoint lacks the last epoch's validation.
        last.progress.last_validation = None;
        checkpoints.save_last(&last).unwrap();
        let before = in_model(folder.path());
        let arguments = ["fit", "--resume", run_folder.to_str().unwrap()];
        let log = stderr(&run(folder.path(), &arguments, 0));
        assert!(in_model(folder.path()) == before);
        assert_eq!(manifest(folder.path()), manifest_before, "{keep}");
        assert_eq!(log.contains("kept epoch 3, the last"), keep == "last");
        assert!(log.contains("best epoch 1"), "{log}");
    }
}

#[test]
fn a_weight_average_is_published_in_the_model() {
    let data = tempfile::tempdir().unwrap();
    let descriptor = phantoms(data.path(), 4, 0);
    for keep in ["best", "last"] {
        let folder = tempfile::tempdir().unwrap();
        let keep_key = format!("training.keep={keep}");
        let set = ["training.weight_average=0.9", &keep_key];
        let (run_folder, fold) = trained(folder.path(), &descriptor, &set);
        let best = Checkpoint::load(&checkpoints(&run_folder).best()).unwrap();
        let last = Checkpoint::load(&checkpoints(&run_folder).last()).unwrap();
        let average = below_prefix("average.", &last.optimiser);
        assert_eq!(
            average.keys().collect::<Vec<_>>(),
            last.network.keys().collect::<Vec<_>>()
        );
        assert!(
            average != last.network,
            "training continues from the weights"
        );
        let kept = if keep == "best" {
            &best.network
        } else {
            &average
        };
        assert!(in_model(folder.path()) == *kept, "{keep}");
        if fold["progress"]["best"][0] == 3 {
            assert!(best.network == average, "the best epoch holds the average");
        }
    }
}

#[test]
fn a_decay_out_of_range_is_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    for wrong in ["0", "1", "1.5", "-0.1", "nan"] {
        let set = format!("training.weight_average={wrong}");
        let output = run(folder.path(), &["fit", "--stage", "1", "--set", &set], 1);
        let log = stderr(&output);
        let log = log.trim();
        assert!(
            log.contains("training.weight_average must lie between 0 and 1") && !log.contains('\n'),
            "{wrong}: {log}"
        );
    }
    let arguments = ["fit", "--stage", "1", "--set", "training.keep=worst"];
    let log = stderr(&run(folder.path(), &arguments, 1));
    assert!(log.contains("best") && log.contains("last"), "{log}");
}
