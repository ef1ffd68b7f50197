//! Overlapping masks, through the binary, against probabilities read by NumPy.

use std::path::Path;
use std::process::Command;

use crate::common::{phantoms, publish_random, run, small_recipe, stderr};

/// Compares masks and the sidecar's volumes with 16-bit probabilities.
const CHECK: &str = r#"
import json, sys, numpy as np, nibabel as nib
out = sys.argv[1]
probabilities = np.load(f"{out}/phantom_000_probabilities.npy").astype(float).transpose(3, 2, 1, 0)
sidecar = json.load(open(f"{out}/phantom_000.json"))
masks = []
for index, name in enumerate(["liver", "spleen"]):
    image = nib.load(f"{out}/phantom_000/{name}.nii.gz")
    mask = np.asarray(image.dataobj)
    assert set(np.unique(mask)) <= {0, 1}, np.unique(mask)
    sure = np.abs(probabilities[..., index] - 0.5) > 1e-3
    assert sure.mean() > 0.5
    assert np.array_equal((mask == 1)[sure], (probabilities[..., index] > 0.5)[sure]), name
    figures = sidecar["statistics"][name]
    assert figures["voxels"] == mask.sum() > 0, (name, figures["voxels"], mask.sum())
    ml = mask.sum() * np.prod(image.header.get_zooms()) / 1000
    assert abs(sidecar["volumes_ml"][name] - ml) < 1e-3 * ml
    masks.append(mask == 1)
both = masks[0] & masks[1]
assert both.any(), "the test is about nothing: no voxel is in both masks"
assert sidecar["overlapping"] is True
print("both", both.sum())
"#;

fn model(folder: &Path, outputs: &str, loss: &str) {
    let set = [
        "spacing_mm=[9.0, 8.0, 7.0]",
        "train_folds=[0]",
        &format!("outputs={outputs}"),
        &format!("training.loss={loss}"),
    ];
    publish_random(&folder.join(outputs), &small_recipe("single", &set), &[&[]]);
}

#[test]
fn independent_structures_have_separate_masks() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    phantoms(&here.join("data"), 1, 0);
    model(here, "independent", "bce_dice");
    model(here, "exclusive", "ce_dice");
    let predict = |model: &str, more: &[&str], code| {
        let image = "data/images/phantom_000.nii.gz";
        let arguments = ["predict", image, "-o", "out", "--model", model, "--json"];
        run(here, &[&arguments[..], more].concat(), code)
    };
    let wanted = [
        "--split",
        "--overlap",
        "--no-postprocess",
        "--save-probabilities=f16",
    ];
    predict("independent", &wanted, 0);
    if let Ok(python) = std::env::var("CTSEG_TEST_PYTHON") {
        let checked = Command::new(python)
            .args(["-c", CHECK])
            .arg(here.join("out"))
            .output()
            .unwrap();
        assert!(checked.status.success(), "{}", stderr(&checked));
    } else {
        println!("skipping the comparison: CTSEG_TEST_PYTHON names no Python with nibabel");
    }
    // Overlapping masks do not count as exclusive ones.
    let kept = |output: &std::process::Output| {
        let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        summary["kept"].as_array().unwrap().len()
    };
    assert_eq!(kept(&predict("independent", &wanted, 0)), 1);
    assert_eq!(
        kept(&predict("independent", &["--split", "--no-postprocess"], 0)),
        0
    );
    let refused = predict("exclusive", &["--split", "--overlap"], 2);
    assert!(
        stderr(&refused).contains("exclusive"),
        "{}",
        stderr(&refused)
    );
    predict("independent", &["--overlap"], 2);
}
