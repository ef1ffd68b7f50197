//! ctseg models in nnU-Net's format: nnU-Net loads them strictly and predicts the same. Parts that need nnU-Net are
//! skipped without `CTSEG_TEST_NNUNET`.

use std::path::{Path, PathBuf};

use crate::common::nnunet::{agreement, assert_agree, network_output, nnunet, saved_output};
use crate::common::{phantoms, publish_random, run, small_recipe, stderr};
use ctseg_core::model::bundle::Bundle;
use ctseg_engine::torch_checkpoint::TorchFile;
use serde_json::json;

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/nnunet")
}

#[test]
fn an_imported_model_survives_its_export() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let import = |from: &Path, to: &str| {
        run(here, &["import", "nnunet", path(from), "-o", to], 0);
    };
    let export = |more: &[&str], code: i32| {
        let to = ["export", "nnunet", "model", "-o", "results"];
        run(here, &[&to[..], more].concat(), code)
    };
    import(&golden(), "model");
    export(&["--id", "7", "--name", "Tiny"], 0);
    let exported = here.join("results/Dataset007_Tiny/nnUNetTrainer__nnUNetPlans__3d_fullres");
    import(&exported, "again");
    let of = |model: &str| {
        let bundle = Bundle::open(&here.join(model)).unwrap();
        let recipe = bundle.stage(2).unwrap().recipe.clone();
        (recipe, bundle.stage_weights(2).unwrap())
    };
    assert_eq!(of("model"), of("again"));
    let refused = export(&["--id", "7", "--name", "Tiny"], 1);
    assert!(stderr(&refused).contains("already exists"));
    let wrong = export(&["--name", "a b"], 2);
    assert!(stderr(&wrong).contains("--name"));
    // nnU-Net's prediction with the exported model.
    let image = golden().join("case_0000.nii.gz");
    let Some(()) = nnunet(
        "nnunet_models.py",
        &[
            path(&here.join("out")),
            path(&exported),
            path(&image),
            "--predict",
        ],
    ) else {
        return;
    };
    assert_agree(
        &network_output(&here.join("model"), &image),
        &saved_output(&here.join("out"), &[1, 2], Some(0)),
    );
    assert_eq!(
        agreement(
            &here.join("out/case.nii.gz"),
            &golden().join("nnunet.nii.gz")
        ),
        1.0
    );
}

/// Exports a ctseg model with random weights and inputs from `low` to `high`, and compares predictions of a phantom.
fn own_model(kind: &str, [low, high]: [f32; 2], further: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    phantoms(&here.join("data"), 1, 0);
    let kind = format!("network.kind={kind}");
    let set = [
        kind.as_str(),
        "network.neighbours=0",
        "windows_hu=[[-160.0, 240.0]]",
        "outputs=exclusive",
        "training.loss=ce_dice",
        "network.norm=instance",
        "network.downsampling=stride",
        "training.patch_size=[16, 16, 24]",
        "spacing_mm=[9.0, 9.0, 8.0]",
        "network.widths=[4, 6]",
        "network.strides=[[1, 1, 1], [1, 2, 2]]",
        "network.kernels=[[1, 3, 3], [3, 3, 3]]",
        "training.augmentation.flip_axes=[]",
    ];
    let recipe = small_recipe("single", &[&set[..], further].concat());
    publish_random_of(&here.join("model"), &recipe);
    run(here, &["export", "nnunet", "model", "-o", "results"], 0);
    let exported = here.join("results/Dataset900_ctseg/nnUNetTrainer__nnUNetPlans__3d_fullres");
    let image = here.join("case_0000.nii.gz");
    std::fs::rename(here.join("data/images/phantom_000.nii.gz"), &image).unwrap();
    let Some(()) = nnunet(
        "nnunet_models.py",
        &[
            path(&here.join("out")),
            path(&exported),
            path(&image),
            "--predict",
        ],
    ) else {
        return;
    };
    let mut theirs = saved_output(&here.join("out"), &[1, 2], Some(0));
    let ours = network_output(&here.join("model"), &image);
    // After cubic interpolation nnU-Net clips to the range of the volume, ctseg to the window.
    let clamp = |value: &f32| value.clamp(low, high);
    theirs.input.1 = theirs.input.1.iter().map(clamp).collect();
    assert_agree(&ours, &theirs);
}

#[test]
fn mirroring_axes_are_exported() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let set = [
        "network.kind=unet3d",
        "network.neighbours=0",
        "windows_hu=[[-160.0, 240.0]]",
        "outputs=exclusive",
        "training.loss=ce_dice",
        "network.norm=instance",
        "network.activation=leaky_relu",
        "network.downsampling=stride",
        "training.patch_size=[16, 16, 16]",
        "network.widths=[4, 6]",
        "training.augmentation.enabled=true",
    ];
    let axes = |name: &str, flips: &str, structures: [&str; 2]| {
        let flips = format!("training.augmentation.flip_axes={flips}");
        let recipe = small_recipe("single", &[&set[..], &[flips.as_str()]].concat());
        let model = here.join(name);
        publish_random_of(&model, &recipe);
        rename_structures(&model, structures);
        run(
            here,
            &["export", "nnunet", name, "-o", name, "--name", name],
            0,
        );
        let exported = format!("{name}/Dataset900_{name}/nnUNetTrainer__nnUNetPlans__3d_fullres");
        let file = here.join(exported).join("fold_0/checkpoint_final.pth");
        let file = TorchFile::open(&file).unwrap();
        file.root()
            .get("inference_allowed_mirroring_axes")
            .unwrap()
            .to_json()
            .unwrap()
    };
    let plain = ["kidney", "spleen"];
    assert_eq!(axes("all", "['x', 'y', 'z']", plain), json!([0, 1, 2]));
    assert_eq!(axes("two", "['z', 'x']", plain), json!([0, 2]));
    assert_eq!(axes("none", "[]", plain), json!(null));
    // nnU-Net would not swap left and right in mirrored volumes.
    let left_and_right = ["kidney_left", "kidney_right"];
    assert_eq!(
        axes("sides", "['x', 'y', 'z']", left_and_right),
        json!([0, 1])
    );
}

fn rename_structures(model: &Path, names: [&str; 2]) {
    let manifest = model.join("model.toml");
    let mut text = std::fs::read_to_string(&manifest).unwrap();
    for (value, name) in (1..).zip(names) {
        let start = format!("{value} = \"");
        let line = text
            .lines()
            .find(|line| line.starts_with(&start))
            .unwrap()
            .to_owned();
        text = text.replace(&line, &format!("{value} = \"{name}\""));
    }
    std::fs::write(&manifest, text).unwrap();
    update_checksum(model);
}

/// Like [`publish_random`], with labels that nnU-Net supports.
fn publish_random_of(model: &Path, recipe: &ctseg_core::recipe::Recipe) {
    publish_random(model, recipe, &[&["a"], &["b"]]);
    let manifest = model.join("model.toml");
    let text = std::fs::read_to_string(&manifest)
        .unwrap()
        .replace("300 = ", "2 = ");
    std::fs::write(&manifest, text).unwrap();
    update_checksum(model);
}

/// Updates the checksum of a changed manifest.
fn update_checksum(model: &Path) {
    let manifest = model.join("model.toml");
    let sums = std::fs::read_to_string(model.join("SHA256SUMS")).unwrap();
    let sum = ctseg_base::hash::file_sha256(&manifest).unwrap();
    let lines = sums.lines().map(|line| match line.ends_with("model.toml") {
        true => format!("{sum}  model.toml\n"),
        false => format!("{line}\n"),
    });
    std::fs::write(model.join("SHA256SUMS"), lines.collect::<String>()).unwrap();
}

#[test]
fn nnunet_predicts_the_same_with_an_exported_plain_network() {
    own_model("unet3d", [0.0, 1.0], &["network.activation=leaky_relu"]);
}

#[test]
fn nnunet_predicts_the_same_with_an_exported_residual_network() {
    own_model(
        "resenc3d",
        [-200.0 / 90.0, 200.0 / 90.0],
        &[
            "normalisation={ kind = 'ct', mean_hu = 40, sd_hu = 90 }",
            "network.blocks=[1, 2]",
        ],
    );
}

#[test]
fn settings_that_nnunet_lacks_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    for (stage, set, expected) in [
        ("single", vec!["outputs=independent"], "independent"),
        (
            "slices",
            vec![
                "outputs=exclusive",
                "training.loss=ce_dice",
                "region=whole",
                "prior=false",
                "stage=2",
            ],
            "slices",
        ),
    ] {
        let model = here.join(stage);
        publish_random(&model, &small_recipe(stage, &set), &[&[]]);
        let output = run(here, &["export", "nnunet", stage, "-o", "results"], 1);
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
        assert!(!here.join("results").join("Dataset900_ctseg").exists());
    }
}
