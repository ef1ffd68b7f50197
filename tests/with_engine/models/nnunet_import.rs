//! Import of a model made by nnU-Net (scripts/golden/make_nnunet.py), and models that are refused.

use std::path::{Path, PathBuf};
use std::process::Output;

use crate::common::nnunet::{agreement, assert_agree, network_output, saved_output};
use crate::common::{run, stderr};
use ctseg_engine::torch_checkpoint::{Pickled, write_torch};
use ctseg_engine::weights::HostTensor;
use serde_json::Value;

const MODEL: &str = "Dataset900_tiny/nnUNetTrainer__nnUNetPlans__3d_fullres";

fn golden(name: &str) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/golden/nnunet").join(name)
}

fn copied(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copied(&path, &target),
            false => drop(std::fs::copy(&path, &target).unwrap()),
        }
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn import(here: &Path, from: &Path, more: &[&str], code: i32) -> Output {
    let arguments = [&["import", "nnunet", path(from)], more].concat();
    run(here, &arguments, code)
}

#[test]
fn an_imported_model_predicts_as_nnunet_does() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let output = import(here, &golden(""), &["-o", "model", "--json"], 0);
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["stages"][0]["configuration"], "3d_fullres");
    assert_eq!(summary["structures"]["2"], "dark");
    let image = golden("case_0000.nii.gz");
    assert_agree(
        &network_output(&here.join("model"), &image),
        &saved_output(&golden(""), &[1, 2], Some(0)),
    );
    let predict = [
        "predict",
        path(&image),
        "--model",
        "model",
        "--precision",
        "f32",
        "--save-probabilities",
    ];
    run(here, &[&predict[..], &["-o", "out"]].concat(), 0);
    let share = agreement(&here.join("out/case.nii.gz"), &golden("nnunet.nii.gz"));
    assert!(share >= 0.9995, "{share}");
    // The sidecar records whether test-time augmentation was used, and a change predicts again.
    run(
        here,
        &[&predict[..], &["-o", "out", "--no-tta"]].concat(),
        0,
    );
    let sidecar = std::fs::read(here.join("out/case.json")).unwrap();
    let sidecar: Value = serde_json::from_slice(&sidecar).unwrap();
    assert_eq!(
        sidecar["cascade"]["looks"]
            .as_u64()
            .or(sidecar["looks"].as_u64()),
        Some(1),
        "{sidecar:#}"
    );
    // Imported models cannot be trained further.
    let manifest = std::fs::read_to_string(here.join("model/model.toml")).unwrap();
    let manifest: toml::Table = toml::from_str(&manifest).unwrap();
    let recipe = toml::to_string(&manifest["stage2"]["recipe"]).unwrap();
    std::fs::write(here.join("mine.toml"), recipe).unwrap();
    let fit = run(here, &["fit", "--stage", "mine.toml", "--epochs", "1"], 2);
    assert!(stderr(&fit).contains("[nnunet]"), "{}", stderr(&fit));
    let again = import(here, &golden(""), &["-o", "model"], 1);
    assert!(
        stderr(&again).contains("already exists"),
        "{}",
        stderr(&again)
    );
}

#[test]
fn a_zip_of_a_model_is_imported_like_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let zip = here.join("model.zip");
    let mut writer = zip::ZipWriter::new(std::fs::File::create(&zip).unwrap());
    let deflated = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Deflated);
    for name in ["plans.json", "dataset.json", "fold_0/checkpoint_final.pth"] {
        writer
            .start_file(format!("{MODEL}/{name}"), deflated)
            .unwrap();
        let bytes = std::fs::read(golden(MODEL).join(name)).unwrap();
        std::io::Write::write_all(&mut writer, &bytes).unwrap();
    }
    writer.finish().unwrap();
    import(here, Path::new("model.zip"), &["-o", "from-zip"], 0);
    import(here, &golden(MODEL), &["-o", "from-folder"], 0);
    let sums = |model: &str| std::fs::read_to_string(here.join(model).join("SHA256SUMS")).unwrap();
    assert_eq!(sums("from-zip"), sums("from-folder"));
    let left = std::fs::read_dir(here).unwrap().count();
    assert_eq!(left, 3, "nothing but the zip and two models");
}

fn change_json(file: &Path, change: impl Fn(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(file, value.to_string()).unwrap();
}

const STAGE: &str = "/configurations/3d_fullres";
const ARCHITECTURE: &str = "/configurations/3d_fullres/architecture";
const KWARGS: &str = "/configurations/3d_fullres/architecture/arch_kwargs";
const RESAMPLING: &str = "/configurations/3d_fullres/resampling_fn_data_kwargs";

/// A JSON pointer, a key, its new value (JSON or a plain string), and a part of the error.
type Change = (&'static str, &'static str, &'static str, &'static str);

const PLANS: [Change; 17] = [
    (STAGE, "patch_size", "[0, 16, 16]", "patch_size"),
    (STAGE, "patch_size", "[6, 15, 16]", "multiples"),
    (STAGE, "spacing", "[1e-300, 1, 1]", "spacing_mm"),
    (
        RESAMPLING,
        "separate_z_anisotropy_threshold",
        "5",
        "threshold",
    ),
    ("", "label_manager", "MyManager", "MyManager"),
    (
        STAGE,
        "normalization_schemes",
        r#"["MyNormalization"]"#,
        "MyNormalization",
    ),
    (
        STAGE,
        "preprocessor_name",
        "MyPreprocessor",
        "MyPreprocessor",
    ),
    (
        STAGE,
        "resampling_fn_data",
        "resample_torch_fornnunet",
        "resample_torch_fornnunet",
    ),
    ("", "image_reader_writer", "Tiff3DIO", "Tiff3DIO"),
    ("", "transpose_forward", "[0, 0, 1]", "transpose"),
    (
        ARCHITECTURE,
        "network_class_name",
        "my.Transformer",
        "my.Transformer",
    ),
    (KWARGS, "norm_op", "torch.nn.BatchNorm3d", "BatchNorm3d"),
    (KWARGS, "nonlin", "torch.nn.GELU", "GELU"),
    (KWARGS, "features_per_stage", "[4, 8]", "encoder.1.0"),
    (KWARGS, "n_stages", "100000000", "n_stages"),
    (STAGE, "patch_size", "[16, 16]", "patch_size"),
    (STAGE, "inherits_from", "elsewhere", "elsewhere"),
];

const DATASET: [Change; 3] = [
    ("", "channel_names", r#"{"0": "T1", "1": "T2"}"#, "T1, T2"),
    ("/labels", "third", "3", "shape"),
    ("/labels", "bright", "[1, 2]", "regions_class_order"),
];

#[test]
fn unsupported_nnunet_settings_are_refused_by_name() {
    let plans = PLANS.map(|change| ("plans.json", change));
    let dataset = DATASET.map(|change| ("dataset.json", change));
    for (file, (place, key, value, expected)) in plans.into_iter().chain(dataset) {
        let value: Value = value.parse().unwrap_or_else(|_| value.into());
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join(MODEL);
        copied(&golden(MODEL), &model);
        change_json(&model.join(file), |json| {
            json.pointer_mut(place).unwrap()[key] = value.clone();
        });
        let log = stderr(&import(folder.path(), &model, &["-o", "out"], 1));
        assert!(log.contains(expected), "{key}: {log}");
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(!folder.path().join("out").exists(), "{key}");
    }
}

#[test]
fn hostile_checkpoints_are_refused_without_running_code() {
    let torch = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/torch");
    for (hostile, expected) in [
        ("hostile_call.pth", "posix.system"),
        ("hostile_bomb.pth", "compressed"),
        ("hostile_overlap.pth", "overlap"),
        ("hostile_size.pth", ""),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join(MODEL);
        copied(&golden(MODEL), &model);
        std::fs::copy(
            torch.join(hostile),
            model.join("fold_0/checkpoint_final.pth"),
        )
        .unwrap();
        let log = stderr(&import(folder.path(), &model, &["-o", "out"], 1));
        assert!(
            log.contains("checkpoint_final.pth") && log.contains(expected),
            "{hostile}: {log}"
        );
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "{hostile} left {left:?}");
    }
}

#[test]
fn checkpoints_and_plans_that_exceed_memory_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join(MODEL);
    copied(&golden(MODEL), &model);
    // Wider than the weights: refused without building the network.
    change_json(&model.join("plans.json"), |json| {
        json.pointer_mut(KWARGS).unwrap()["features_per_stage"] = serde_json::json!([16384, 16384]);
    });
    let log = stderr(&import(folder.path(), &model, &["-o", "out"], 1));
    assert!(log.contains("the recipe's network has"), "{log}");
    assert_eq!(log.lines().count(), 1, "{log}");
    // A tensor of 40 kB under 300 names.
    let tensor = HostTensor {
        shape: vec![10_000],
        values: vec![0.0; 10_000],
    };
    let weights = (0..300).map(|index| (format!("w{index}"), Pickled::Tensor(&tensor)));
    let text = |text: &str| Pickled::Text(text.to_owned());
    let root = Pickled::Dict(vec![
        (
            "network_weights".to_owned(),
            Pickled::Dict(weights.collect()),
        ),
        (
            "init_args".to_owned(),
            Pickled::Dict(vec![("configuration".to_owned(), text("3d_fullres"))]),
        ),
        ("trainer_name".to_owned(), text("nnUNetTrainer")),
    ]);
    copied(&golden(MODEL), &model);
    let checkpoint = model.join("fold_0/checkpoint_final.pth");
    write_torch(&checkpoint, &root).unwrap();
    let log = stderr(&import(folder.path(), &model, &["-o", "out"], 1));
    assert!(
        log.contains("300 weights of 12000000 bytes in all"),
        "{log}"
    );
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(!folder.path().join("out").exists());
    let shown = run(folder.path(), &["inspect", path(&checkpoint)], 0);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("w299") && shown.contains("10000"), "{shown}");
}

#[test]
fn folds_and_checkpoints_can_be_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let model = here.join(MODEL);
    copied(&golden(MODEL), &model);
    copied(&model.join("fold_0"), &model.join("fold_3"));
    let import = |more: &[&str], code| {
        let _ = std::fs::remove_dir_all(here.join("out"));
        let arguments = [&["-o", "out", "--json"], more].concat();
        let output = import(here, &model, &arguments, code);
        match code {
            0 => serde_json::from_slice(&output.stdout).unwrap(),
            _ => Value::String(stderr(&output)),
        }
    };
    assert_eq!(
        import(&[], 0)["stages"][0]["folds"],
        serde_json::json!(["0", "3"])
    );
    assert_eq!(
        import(&["--fold", "3"], 0)["stages"][0]["folds"],
        serde_json::json!(["3"])
    );
    assert!(import(&["--fold", "1"], 1).to_string().contains("fold_1"));
    assert!(import(&["--fold", "x"], 2).to_string().contains("--fold x"));
    assert!(
        import(&["--checkpoint", "checkpoint_best.pth"], 1)
            .to_string()
            .contains("checkpoint_best.pth")
    );
    assert!(
        import(&["--configuration", "2d"], 1)
            .to_string()
            .contains("'2d'")
    );
    assert!(
        import(&["--fold", "3,3"], 2)
            .to_string()
            .contains("a fold twice")
    );
    std::fs::rename(model.join("fold_0"), model.join("fold_all")).unwrap();
    std::fs::remove_dir_all(model.join("fold_3")).unwrap();
    assert_eq!(
        import(&[], 0)["stages"][0]["folds"],
        serde_json::json!(["all"])
    );
}
