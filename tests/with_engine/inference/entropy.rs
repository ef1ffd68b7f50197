//! Entropy maps, through the binary, against NumPy on the probabilities of the same run.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::runs::written_and_kept;
use crate::common::{phantoms, publish_random, run, small_recipe, stderr};
use serde_json::Value;

const IMAGE: &str = "data/images/phantom_000.nii.gz";

/// A model with random weights, for slices (`single`) or patches (`refine`).
fn model(path: &Path, stage: &str, outputs: &str, spacing: &str) {
    let outputs = format!("outputs={outputs}");
    let loss = match outputs.ends_with("exclusive") {
        true => "training.loss=ce_dice",
        false => "training.loss=bce_dice",
    };
    let mut set = vec![
        spacing,
        "train_folds=[0, 1]",
        "training.augmentation.enabled=true",
        "training.augmentation.flip_axes=['y']",
        &outputs,
        loss,
    ];
    if stage == "refine" {
        set.extend([
            "region=whole",
            "prior=false",
            "training.patch_size=[8, 8, 8]",
        ]);
    }
    publish_random(path, &small_recipe(stage, &set), &[&[], &[]]);
}

/// How many cases were written and kept.
fn counts(folder: &Path, arguments: &[&str]) -> (usize, usize) {
    written_and_kept(folder, &[&[IMAGE], arguments].concat())
}

fn check_with_numpy(folder: &Path, outputs: &str) {
    let Some(python) = std::env::var_os("CTSEG_TEST_PYTHON") else {
        println!("skipping the comparison: CTSEG_TEST_PYTHON names no Python with nibabel");
        return;
    };
    let output = Command::new(python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/check_entropy.py"))
        .arg(folder)
        .args(["phantom_000", outputs])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn entropies_match_numpy_and_do_not_change_labels() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    phantoms(&here.join("data"), 1, 0);
    for outputs in ["exclusive", "independent"] {
        for stage in ["single", "refine"] {
            let [a, b] = ["a", "b"].map(|name| format!("{outputs}-{stage}-{name}"));
            model(&here.join(&a), stage, outputs, "spacing_mm=[9.0, 8.0, 7.0]");
            model(&here.join(&b), stage, outputs, "spacing_mm=[8.0, 9.0, 9.0]");
            // Two models with test-time augmentation, or one model without.
            let more = match stage {
                "single" => vec!["--model", &a, "--model", &b, "--tta"],
                _ => vec!["--model", &a],
            };
            let [out, plain] = ["", "plain-"].map(|of| format!("{of}{outputs}-{stage}"));
            let save = ["--save-entropy", "--save-probabilities=f16"];
            let with = [&["-o", &out], &more[..], &save].concat();
            assert_eq!(counts(here, &with), (1, 0));
            assert_eq!(counts(here, &[&["-o", &plain], &more[..]].concat()), (1, 0));
            let [a, b] = [&out, &plain].map(|out| {
                let map = here.join(out).join("phantom_000.nii.gz");
                fs::read(map).unwrap()
            });
            assert!(a == b, "{out}: another label map");
            check_with_numpy(&here.join(&out), outputs);
        }
    }
}

#[test]
fn missing_and_damaged_maps_are_written_again_and_unrequested_ones_removed() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    phantoms(&here.join("data"), 1, 0);
    let spacing = "spacing_mm=[9.0, 8.0, 7.0]";
    model(&here.join("model"), "single", "exclusive", spacing);
    let map = here.join("predictions/phantom_000_entropy.nii.gz");
    let wanted = ["--save-entropy"];
    assert_eq!(counts(here, &[]), (1, 0));
    assert!(!map.exists());
    assert_eq!(counts(here, &wanted), (1, 0));
    let whole = fs::read(&map).unwrap();
    let sidecar = fs::read(here.join("predictions/phantom_000.json")).unwrap();
    let sidecar: Value = serde_json::from_slice(&sidecar).unwrap();
    let written = &sidecar["written"]["phantom_000_entropy.nii.gz"];
    assert_eq!(written["bytes"], whole.len());
    assert!(sidecar["seconds"].as_f64().is_some());
    // A valid map is kept, requested or not.
    assert_eq!(counts(here, &wanted), (0, 1));
    assert_eq!(counts(here, &[]), (0, 1));
    fs::remove_file(&map).unwrap();
    assert_eq!(counts(here, &wanted), (1, 0));
    assert!(fs::read(&map).unwrap() == whole, "another map");
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    fs::write(&map, damaged).unwrap();
    assert_eq!(counts(here, &wanted), (1, 0));
    assert!(fs::read(&map).unwrap() == whole);
    // An entropy map is neither an input volume nor a label map.
    let log = stderr(&run(here, &["predict", "predictions"], 1));
    assert!(log.contains("no volume found"), "{log}");
    let compared = run(
        here,
        &["evaluate", "predictions", "data/labels", "--json"],
        0,
    );
    let compared: Value = serde_json::from_slice(&compared.stdout).unwrap();
    assert_eq!(
        (&compared["cases"], &compared["failed"]),
        (&1.into(), &serde_json::json!([]))
    );
    // Predicted again without entropy, no map of the earlier run is left.
    assert_eq!(counts(here, &["--overwrite"]), (1, 0));
    assert!(!map.exists());
}
