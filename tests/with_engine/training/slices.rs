//! A small U-Net on generated slices learns within three epochs, on each engine.

use crate::common::{run, stderr};

use serde_json::Value;

fn learns_in_three_epochs(engine: &str, set: &[&str], dice: f64, iou: f64) {
    let folder = tempfile::tempdir().unwrap();
    let mut arguments = vec![
        "fit", "--stage", "slices", "--epochs", "3", "--device", engine, "--json",
    ];
    arguments.extend(set.iter().flat_map(|value| ["--set", value]));
    let output = run(folder.path(), &arguments, 0);
    // No data was named: the recipe's phantoms are generated.
    let log = stderr(&output);
    assert!(log.contains("phantom-slices"), "{log}");
    assert!(folder.path().join("phantom-slices/dataset.toml").exists());
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    let run_folder = folder.path().join(summary["run"].as_str().unwrap());
    let text = std::fs::read_to_string(run_folder.join("metrics.jsonl")).unwrap();
    let epochs: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(epochs.len(), 3);
    let number = |epoch: usize, key: &str| epochs[epoch][key].as_f64().unwrap();
    let loss = |epoch: usize| number(epoch, "validation_loss");
    assert!(loss(2) < 0.75 * loss(0), "{text}");
    assert!(number(2, "validation_dice") > dice, "{text}");
    assert!(number(2, "validation_iou") > iou, "{text}");
    let best = &summary["folds"][0]["progress"]["best_validation"];
    assert_eq!(best["dice_per_map"].as_array().unwrap().len(), 4);
    let in_summary = ["dice", "iou", "loss"].map(|key| &best[key]);
    let is_best = |epoch: &Value| {
        let keys = ["validation_dice", "validation_iou", "validation_loss"];
        keys.map(|key| &epoch[key]) == in_summary
    };
    assert!(epochs.iter().any(is_best), "{text} {best}");
}

// Half the resolution and a quarter of the width, with the highest learning rate that works for it.
#[cfg(not(feature = "libtorch"))] // once is enough
#[test]
fn a_narrow_network_learns_in_three_epochs_on_flex() {
    let set = [
        "network.widths=[8, 16, 32]",
        "spacing_mm=[6.0, 6.0, 3.0]",
        "training.patch_size=[64, 64]",
        "training.optimiser.learning_rate=5e-3",
    ];
    learns_in_three_epochs("flex", &set, 0.6, 0.5);
}

#[cfg(feature = "libtorch")]
#[test]
fn the_slices_recipe_learns_in_three_epochs_on_libtorch() {
    learns_in_three_epochs("libtorch", &[], 0.75, 0.6);
}
