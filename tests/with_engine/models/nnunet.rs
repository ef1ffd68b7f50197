//! Models that nnU-Net makes here, and predicts real CT with: ctseg must say the same. Left out without
//! `CTSEG_TEST_NNUNET` (a Python with nnunetv2) and `CTSEG_TEST_DATA`.

use std::path::{Path, PathBuf};

use crate::common::nnunet::{agree, agreement, kept, nnunet, said};
use crate::common::run;

/// The share of voxels that must agree (nnU-Net adds logits up in 16 bits, ctseg in 32).
const AGREEMENT: f64 = 0.9995;

/// The folder of a model that nnU-Net made and used; none where the test is left out.
fn made(here: &Path, name: &str) -> Option<PathBuf> {
    let Ok(data) = std::env::var("CTSEG_TEST_DATA") else {
        println!("skipped: CTSEG_TEST_DATA names no real CT");
        return None;
    };
    // Made before, for whoever works on this.
    if let Ok(kept) = std::env::var("CTSEG_TEST_NNUNET_MODELS") {
        let copied = std::process::Command::new("cp")
            .args(["-r", &format!("{kept}/{name}")])
            .arg(here)
            .status();
        assert!(copied.unwrap().success());
        return Some(here.join(name));
    }
    let out = here.to_str().unwrap();
    nnunet("nnunet_models.py", &[out, name, "--data", &data])?;
    Some(here.join(name))
}

/// Imports a configuration of it and predicts its image; compares with what nnU-Net saw, said and wrote.
fn compare(folder: &Path, configuration: &str, rows: &[usize], background: Option<usize>) {
    imported(folder, configuration, "model");
    let image = folder.join("images/case_0000.nii.gz");
    let theirs = folder.join(format!("nnunet-{configuration}"));
    agree(
        &said(&folder.join("model"), &image),
        &kept(&theirs, rows, background),
    );
    same_labels(folder, configuration, "model");
}

fn imported(folder: &Path, configuration: &str, model: &str) {
    let arguments = [
        "import",
        "nnunet",
        "results",
        "--configuration",
        configuration,
        "-o",
        model,
    ];
    run(folder, &arguments, 0);
}

/// Label maps of ctseg's in the folder `labels-<model>`, and nnU-Net's own.
fn same_labels(folder: &Path, configuration: &str, model: &str) {
    let out = format!("labels-{model}");
    let arguments = [
        "predict",
        "images",
        "--model",
        model,
        "-o",
        &out,
        "--precision",
        "f32",
    ];
    run(folder, &arguments, 0);
    let theirs = folder.join(format!("nnunet-{configuration}/case.nii.gz"));
    let share = agreement(&folder.join(out).join("case.nii.gz"), &theirs);
    println!("{:.4} % of the voxels agree", 100.0 * share);
    assert!(share >= AGREEMENT, "{share}");
}

#[test]
fn slices_transposed_and_mirrored() {
    let folder = tempfile::tempdir().unwrap();
    let Some(made) = made(folder.path(), "slices") else {
        return;
    };
    compare(&made, "2d", &[1, 2, 3, 4], Some(0));
}

#[test]
fn volumes_of_three_folds_in_older_plans() {
    let folder = tempfile::tempdir().unwrap();
    let Some(made) = made(folder.path(), "volumes") else {
        return;
    };
    compare(&made, "3d_fullres", &[1, 2, 3], Some(0));
}

#[test]
fn thick_slices_are_resampled_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let Some(made) = made(folder.path(), "thick") else {
        return;
    };
    compare(&made, "3d_fullres", &[1], Some(0));
}

#[test]
fn a_cascade_sees_the_labels_of_its_first_stage() {
    let folder = tempfile::tempdir().unwrap();
    let Some(made) = made(folder.path(), "cascade") else {
        return;
    };
    imported(&made, "3d_lowres", "first");
    same_labels(&made, "3d_lowres", "first");
    imported(&made, "3d_cascade_fullres", "model");
    same_labels(&made, "3d_cascade_fullres", "model");
    // Of one first stage's labels both make the same; a voxel that differs there shows all around it.
    let cascade =
        made.join("results/Dataset900_cascade/nnUNetTrainer__nnUNetPlans__3d_cascade_fullres");
    let (out, image, labels) = (
        made.join("again"),
        made.join("images/case_0000.nii.gz"),
        made.join("labels-first"),
    );
    let arguments = [&out, &cascade, &image].map(|path| path.to_str().unwrap());
    let earlier = ["--predict", "--earlier", labels.to_str().unwrap()];
    nnunet("nnunet_models.py", &[&arguments[..], &earlier].concat()).unwrap();
    agree(
        &said(&made.join("model"), &image),
        &kept(&out, &[1, 2, 3], Some(0)),
    );
}

#[test]
fn regions_of_a_residual_network() {
    let folder = tempfile::tempdir().unwrap();
    let Some(made) = made(folder.path(), "regions") else {
        return;
    };
    // Ours are ascending: liver 1, organs 2, paired 3.
    compare(&made, "3d_fullres", &[2, 0, 1], None);
}
