//! Diagnoses of real trainings: a network that is too small, a learning rate that is too high.

use crate::common::{phantoms, run, run_json};
use serde_json::Value;

/// Trains one fold of all structures; the run's diagnosis as `fit` prints it, and its folder.
fn diagnosed(cases: usize, set: &[&str]) -> (Value, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let data = phantoms(&folder.path().join("data"), cases, 0);
    let mut arguments = vec![
        "--json", "--device", "flex", "fit", "--stage", "single", "--fold", "0",
    ];
    arguments.extend(["--data", data.to_str().unwrap()]);
    let small = [
        "spacing_mm=[14.0, 14.0, 14.0]",
        "folds=2",
        "training.augmentation.enabled=false",
        "training.early_stopping.patience=100",
        "training.batch_size=2",
    ];
    for text in small.iter().chain(set) {
        arguments.extend(["--set", text]);
    }
    let summary = run_json(folder.path(), &arguments, 0);
    let run_folder = folder.path().join(summary["run"].as_str().unwrap());
    for file in ["diagnosis.json", "plots/loss.png", "plots/dice.png"] {
        assert!(run_folder.join(file).exists(), "{file}");
    }
    // `ctseg inspect` of the run shows the same diagnosis.
    let shown = run(folder.path(), &["inspect", run_folder.to_str().unwrap()], 0);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let diagnosis = summary["diagnoses"][0].clone();
    let because = diagnosis["because"].as_str().unwrap();
    assert!(shown.contains(because), "{shown}\n{diagnosis:#}");
    (diagnosis, folder)
}

#[test]
fn a_small_network_and_a_high_learning_rate_underfit() {
    let (tiny, _folder) = diagnosed(
        4,
        &[
            "network.widths=[1, 1]",
            "training.epochs=12",
            "training.optimiser.learning_rate=1e-4",
        ],
    );
    assert_eq!(tiny["verdict"], "fits_too_little", "{tiny:#}");
    let (fast, _folder) = diagnosed(
        4,
        &[
            "network.widths=[4, 8]",
            "training.epochs=12",
            "training.optimiser.learning_rate=10",
        ],
    );
    assert_eq!(fast["verdict"], "fits_too_little", "{fast:#}");
    let advice = fast["try_next"][0].as_str().unwrap();
    assert!(advice.contains("lower"), "{fast:#}");
}
