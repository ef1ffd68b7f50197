//! The classic exercise: a small U-Net on generated slices learns within three epochs, on every engine.

mod common;

use serde_json::Value;

#[test]
fn three_epochs_of_the_slices_recipe_on_every_engine() {
    let folder = tempfile::tempdir().unwrap();
    let mut engines = vec!["flex"];
    if cfg!(feature = "libtorch") {
        engines.push("libtorch");
    }
    for engine in engines {
        let arguments = [
            "fit", "--stage", "slices", "--epochs", "3", "--device", engine, "--model", engine,
            "--runs", engine, "--json",
        ];
        // Runs and model of one engine side by side in two folders.
        let runs = format!("runs-{engine}");
        let mut arguments = arguments.to_vec();
        arguments[10] = &runs;
        let output = common::run(folder.path(), &arguments, 0);
        let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
        let run = folder.path().join(summary["run"].as_str().unwrap());
        let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let epochs: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(epochs.len(), 3, "{engine}");
        let number = |epoch: usize, key: &str| epochs[epoch][key].as_f64().unwrap();
        assert!(
            number(2, "validation_loss") < 0.75 * number(0, "validation_loss"),
            "{engine}: {text}"
        );
        assert!(number(2, "validation_dice") > 0.75, "{engine}: {text}");
        assert!(number(2, "validation_iou") > 0.6, "{engine}: {text}");
    }
}
