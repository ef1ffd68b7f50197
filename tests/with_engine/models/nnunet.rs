//! Models made by nnU-Net in this test: ctseg must predict real CT as nnU-Net does. Skipped without `CTSEG_TEST_NNUNET`
//! (a Python with nnunetv2) and `CTSEG_TEST_DATA`.

use std::path::{Path, PathBuf};

use crate::common::nnunet::{agreement, assert_agree, network_output, nnunet, saved_output};
use crate::common::run;

/// The share of voxels that must agree (nnU-Net sums logits in 16 bits, ctseg in 32).
const AGREEMENT: f64 = 0.9995;

/// The folder of a model that nnU-Net made and used; `None` if the test is skipped.
fn nnunet_model(here: &Path, name: &str) -> Option<PathBuf> {
    let Ok(data) = std::env::var("CTSEG_TEST_DATA") else {
        println!("skipped: CTSEG_TEST_DATA names no real CT");
        return None;
    };
    // Models made before, for development.
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

/// Imports a configuration and predicts its image; compares with nnU-Net's input, logits and labels.
fn compare(folder: &Path, configuration: &str, rows: &[usize], background: Option<usize>) {
    imported(folder, configuration, "model");
    let image = folder.join("images/case_0000.nii.gz");
    let theirs = folder.join(format!("nnunet-{configuration}"));
    assert_agree(
        &network_output(&folder.join("model"), &image),
        &saved_output(&theirs, rows, background),
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

/// Compares ctseg's label maps, in the folder `labels-<model>`, with nnU-Net's.
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
fn transposed_slices_with_mirroring_match_nnunet() {
    let folder = tempfile::tempdir().unwrap();
    let Some(made) = nnunet_model(folder.path(), "slices") else {
        return;
    };
    compare(&made, "2d", &[1, 2, 3, 4], Some(0));
}

#[test]
fn volumes_with_three_folds_and_older_plans_match_nnunet() {
    let folder = tempfile::tempdir().unwrap();
    let Some(made) = nnunet_model(folder.path(), "volumes") else {
        return;
    };
    compare(&made, "3d_fullres", &[1, 2, 3], Some(0));
}

#[test]
fn thick_slices_are_resampled_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let Some(made) = nnunet_model(folder.path(), "thick") else {
        return;
    };
    compare(&made, "3d_fullres", &[1], Some(0));
}

#[test]
fn a_cascade_sees_the_labels_of_its_first_stage() {
    let folder = tempfile::tempdir().unwrap();
    let Some(made) = nnunet_model(folder.path(), "cascade") else {
        return;
    };
    imported(&made, "3d_lowres", "first");
    same_labels(&made, "3d_lowres", "first");
    imported(&made, "3d_cascade_fullres", "model");
    same_labels(&made, "3d_cascade_fullres", "model");
    // From the same first-stage labels both give the same; a voxel that differs there has effects around it.
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
    assert_agree(
        &network_output(&made.join("model"), &image),
        &saved_output(&out, &[1, 2, 3], Some(0)),
    );
}

#[test]
fn regions_of_a_residual_network() {
    let folder = tempfile::tempdir().unwrap();
    let Some(made) = nnunet_model(folder.path(), "regions") else {
        return;
    };
    // Ours are ascending: liver 1, organs 2, paired 3.
    compare(&made, "3d_fullres", &[2, 0, 1], None);
}
