//! `ctseg demo` on a handful of phantoms: every promised file is there and says what it should.

use crate::common;

use crate::common::{SMALL, run, stderr};
use serde_json::Value;

#[test]
fn the_demo_leaves_what_it_promises() {
    let folder = tempfile::tempdir().unwrap();
    let mut arguments = vec![
        "demo",
        "-o",
        "out",
        "--train",
        "4",
        "--test",
        "1",
        "--set",
        "training.epochs=1",
    ];
    arguments.extend(SMALL);
    let said = stderr(&run(folder.path(), &arguments, 0));
    for step in ["1/5", "2/5", "3/5", "4/5", "5/5"] {
        assert!(said.contains(step), "{said}");
    }
    let out = folder.path().join("out");
    let summary: Value =
        serde_json::from_slice(&std::fs::read(out.join("summary.json")).unwrap()).unwrap();
    assert_eq!(summary["cases"], 1);
    assert_eq!(summary["per_structure"].as_object().unwrap().len(), 5);
    assert!(summary["mean"]["accuracy"].as_f64().is_some(), "{summary}");
    assert!(summary["roi_recall"].as_f64().is_some(), "{summary}");
    let table = std::fs::read_to_string(out.join("metrics.csv")).unwrap();
    assert_eq!(table.lines().count(), 1 + 5, "{table}");
    assert!(
        table.starts_with("case,structure,label,dice,iou,precision,recall,specificity,accuracy"),
        "{table}"
    );

    let report = std::fs::read_to_string(out.join("report.html")).unwrap();
    for part in [
        "phantom_004",
        "view-0-image",
        "demo-coarse",
        "demo-refine",
        "Learning rate",
        "SHA-256",
    ] {
        assert!(report.contains(part), "{part}");
    }
    assert!(report.len() < 4_000_000, "{}", report.len());

    let sidecar: Value =
        serde_json::from_slice(&std::fs::read(out.join("predictions/phantom_004.json")).unwrap())
            .unwrap();
    assert_eq!(sidecar["input_sha256"].as_str().unwrap().len(), 64);
    assert!(sidecar["cascade"]["roi"]["end"].is_array(), "{sidecar}");
    assert_eq!(sidecar["volumes_ml"].as_object().unwrap().len(), 5);

    // The run folders hold what a later look needs.
    for run in std::fs::read_dir(out.join("runs")).unwrap() {
        let run = run.unwrap().path();
        for file in ["recipe.toml", "run.toml", "metrics.jsonl", "log.txt"] {
            assert!(run.join(file).exists(), "{} lacks {file}", run.display());
        }
        assert!(run.join("checkpoints/fold_0/last.safetensors").exists());
        assert!(run.join("checkpoints/fold_0/best.safetensors").exists());
    }

    // And the model can be looked into.
    let layers = run_stdout(folder.path(), &["inspect", "out/model"]);
    assert!(
        layers.contains("encoder.0.0") && layers.contains("stage 2"),
        "{layers}"
    );
    let parsed: Value = serde_json::from_str(&run_stdout(
        folder.path(),
        &["inspect", "out/model", "--json"],
    ))
    .unwrap();
    assert_eq!(parsed["stages"].as_array().unwrap().len(), 2);
    let volume = run_stdout(
        folder.path(),
        &["inspect", "out/data/images/phantom_000.nii.gz"],
    );
    assert!(
        volume.contains("HU histogram") && volume.contains("spacing"),
        "{volume}"
    );
    let data = run_stdout(folder.path(), &["inspect", "out/data"]);
    assert!(
        data.contains("phantom_004") && data.contains("test") && data.contains("liver"),
        "{data}"
    );
}

fn run_stdout(folder: &std::path::Path, arguments: &[&str]) -> String {
    String::from_utf8(run(folder, arguments, 0).stdout).unwrap()
}
