//! `ctseg export`: weights for other programs, loaded in PyTorch.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::common::{publish_random, random_model, run, small_recipe, stderr};
use burn::tensor::{Tensor, TensorData};
use ctseg_core::model::bundle::Bundle;
use ctseg_core::recipe::output_maps::output_maps;
use ctseg_engine::device::DeviceChoice;
use ctseg_engine::weights::{NamedTensors, read_tensors, with_tensors};
use serde_json::{Value, json};

/// Names, shapes and checksums of the tensors in a file, read with Python's safetensors.
const READ: &str = r#"
import json, sys, zlib
from safetensors.numpy import load_file
from safetensors import safe_open
tensors = {name: [list(t.shape), str(t.dtype), zlib.crc32(t.tobytes())] for name, t in load_file(sys.argv[1]).items()}
metadata = safe_open(sys.argv[1], framework="numpy").metadata()
print(json.dumps({"tensors": tensors, "metadata": metadata}))
"#;

/// Maximum difference from PyTorch's logits, relative to the largest.
const TOLERANCE: f64 = 2e-4;

fn python(variable: &str, arguments: &[&str]) -> Option<Value> {
    let Some(python) = std::env::var_os(variable) else {
        println!("skipped: {variable} names no Python");
        return None;
    };
    let output = Command::new(python).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// CRC-32 as zlib computes it.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

fn metadata_of(path: &Path) -> Value {
    serde_json::from_str(&read_tensors(path).unwrap().1).unwrap()
}

/// Asserts that Python's safetensors reads the same tensors and metadata.
fn assert_python_reads(path: &Path, tensors: &NamedTensors, described: &Value) {
    let Some(read) = python("CTSEG_TEST_PYTHON", &["-c", READ, path.to_str().unwrap()]) else {
        return;
    };
    let expected: BTreeMap<&String, Value> = tensors
        .iter()
        .map(|(name, tensor)| {
            let bytes: Vec<u8> = tensor
                .values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            (name, json!([tensor.shape, "float32", crc32(&bytes)]))
        })
        .collect();
    assert_eq!(read["tensors"], json!(expected));
    let text = read["metadata"]["ctseg"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(text).unwrap(), *described);
}

#[test]
fn every_exported_network_is_readable_in_python() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    random_model(&at("model"), &[]);
    for to in ["out", "all.safetensors"] {
        let export = ["export", "safetensors", "model", "-o", to];
        run(folder.path(), &export, 0);
    }
    let bundle = Bundle::open(&at("model")).unwrap();
    let mut all = NamedTensors::new();
    for stage in [1, 2] {
        let path = at(&format!("out/stage{stage}_fold0.safetensors"));
        let weights = bundle.stage_weights(stage).unwrap().remove(0);
        let (tensors, _) = read_tensors(&path).unwrap();
        assert!(!tensors.is_empty() && tensors == weights);
        let described = metadata_of(&path);
        assert_eq!(described["model_sha256"], bundle.sha256());
        assert_eq!(described["structures"], json!({"liver": 1, "spleen": 300}));
        let network = &described["networks"][0];
        let recipe = &bundle.stage(stage).unwrap().recipe;
        assert_eq!(
            (&network["prefix"], &network["stage"], &network["fold"]),
            (&json!(""), &json!(stage), &json!(0))
        );
        assert_eq!(network["spacing_mm"], json!(recipe.spacing_mm));
        assert_eq!(
            network["channels"].as_array().unwrap().len(),
            recipe.channels()
        );
        let maps = if stage == 1 {
            json!(["structures"])
        } else {
            json!(["liver", "spleen"])
        };
        assert_eq!(network["maps"], maps);
        assert_eq!(network["normalisation"], json!({"kind": "window"}));
        let prefix = format!("stage{stage}.fold_0.");
        all.extend(
            weights
                .into_iter()
                .map(|(name, tensor)| (prefix.clone() + &name, tensor)),
        );
        assert_python_reads(&path, &tensors, &described);
    }
    let (tensors, _) = read_tensors(&at("all.safetensors")).unwrap();
    assert!(tensors == all);
    let networks = metadata_of(&at("all.safetensors"))["networks"].clone();
    let prefixes: Vec<&Value> = networks
        .as_array()
        .unwrap()
        .iter()
        .map(|network| &network["prefix"])
        .collect();
    assert_eq!(prefixes, ["stage1.fold_0.", "stage2.fold_0."]);
}

#[test]
fn refused_exports_give_one_line_errors() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    random_model(&at("model"), &[]);
    let export = |arguments: &[&str], code: i32| {
        let output = run(folder.path(), &[&["export"], arguments].concat(), code);
        stderr(&output)
    };
    export(&["safetensors", "model", "-o", "out", "--stage", "2"], 0);
    assert!(!at("out/stage1_fold0.safetensors").exists());
    let log = export(&["safetensors", "model", "-o", "out"], 1);
    assert!(
        log.contains("stage2_fold0.safetensors: already exists"),
        "{log}"
    );
    assert!(
        !at("out/stage1_fold0.safetensors").exists(),
        "nothing is written"
    );
    export(&["safetensors", "model", "-o", "out", "--overwrite"], 0);
    assert!(at("out/stage1_fold0.safetensors").exists());
    assert!(export(&["safetensors", "nowhere", "-o", "out"], 1).contains("is not a model"));
    export(&["safetensors", "model", "-o", "out", "--stage", "3"], 2);
    let damaged = at("model/stage2.safetensors");
    let mut bytes = std::fs::read(&damaged).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    assert!(
        export(&["safetensors", "model", "-o", "x"], 1).contains("stage2.safetensors: damaged")
    );
    for arguments in [&["onnx", "model", "-o", "x.onnx"][..], &["onnx"]] {
        let log = export(arguments, 1);
        assert!(
            log.starts_with("error: ONNX export is not supported:") && log.lines().count() == 1,
            "{log}"
        );
        assert!(log.contains("ctseg export safetensors"), "{log}");
    }
}

/// The input of `scripts/torch_network.py`.
fn wave(shape: [usize; 5]) -> Tensor<5> {
    let values: Vec<f32> = (0..shape.iter().product::<usize>())
        .map(|i| ((0.7391 * i as f64).sin() + 0.3 * (0.0137 * i as f64).cos()) as f32)
        .collect();
    let device = DeviceChoice::Flex.device().unwrap();
    Tensor::from_data(TensorData::new(values, shape.to_vec()), &device)
}

/// Logits of the fold's network on flex.
fn logits(model: &Path, stage: u8, fold: usize, shape: [usize; 5]) -> (Vec<usize>, Vec<f32>) {
    let bundle = Bundle::open(model).unwrap();
    let recipe = &bundle.stage(stage).unwrap().recipe;
    let values: Vec<u16> = bundle
        .structures()
        .unwrap()
        .iter()
        .map(|s| s.value)
        .collect();
    let maps = output_maps(recipe, &values).len();
    let device = DeviceChoice::Flex.device().unwrap();
    let network = recipe
        .network
        .init(recipe.channels(), maps, &device)
        .unwrap();
    let weights = bundle.stage_weights(stage).unwrap().swap_remove(fold);
    let network = with_tensors(network, &weights, &device).unwrap();
    let logits = network.forward(wave(shape)).unwrap();
    let shape = logits.dims().to_vec();
    (shape, logits.into_data().try_into_vec::<f32>().unwrap())
}

/// Recipes, overrides and input shapes (the channels are those of the recipe).
const NETWORKS: [(&str, &[&str], [usize; 5]); 6] = [
    ("coarse", &[], [2, 1, 1, 16, 24]),
    (
        "refine2_5d",
        &["network.attention=true", "region=\"whole\"", "prior=false"],
        [1, 1, 7, 16, 8],
    ),
    (
        "refine2_5d",
        &[
            "network.norm=\"group\"",
            "network.groups=2",
            "region=\"whole\"",
            "prior=false",
        ],
        [1, 1, 7, 8, 8],
    ),
    (
        "refine",
        &[
            "region=\"whole\"",
            "prior=false",
            "network.widths=[4, 8, 8]",
        ],
        [1, 1, 8, 16, 12],
    ),
    (
        "refine",
        &[
            "region=\"whole\"",
            "prior=false",
            "network.attention=true",
            "network.strides=[[1,1,1],[1,2,2]]",
        ],
        [1, 1, 3, 8, 12],
    ),
    (
        "resenc",
        &[
            "region=\"whole\"",
            "prior=false",
            "network.widths=[4, 8, 8]",
            "network.blocks=[1, 2, 1]",
        ],
        [1, 1, 8, 16, 8],
    ),
];

#[test]
fn pytorch_computes_the_same_logits() {
    let folder = tempfile::tempdir().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/torch_network.py");
    for (number, (recipe, overrides, shape)) in NETWORKS.into_iter().enumerate() {
        let model = folder.path().join(format!("model{number}"));
        let recipe = small_recipe(recipe, &[overrides, &["train_folds=[0, 1]"]].concat());
        publish_random(&model, &recipe, &[&[], &[]]);
        let file = folder.path().join(format!("{number}.safetensors"));
        let (from, to) = (model.to_str().unwrap(), file.to_str().unwrap());
        run(folder.path(), &["export", "safetensors", from, "-o", to], 0);
        let prefix = format!("stage{}.fold_1.", recipe.stage);
        let shape = [shape[0], recipe.channels(), shape[2], shape[3], shape[4]];
        let [batch, _, sides @ ..] = shape;
        let sides = sides.map(|side| side.to_string());
        let mut arguments = vec![script.to_owned(), to.to_owned(), prefix, batch.to_string()];
        arguments.extend(sides);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let Some(found) = python("CTSEG_TEST_NNUNET", &arguments) else {
            return;
        };
        let (shape, expected) = logits(&model, recipe.stage, 1, shape);
        assert_eq!(found["shape"], json!(shape), "{}", recipe.name);
        let found: Vec<f64> = serde_json::from_value(found["values"].clone()).unwrap();
        let largest = expected
            .iter()
            .fold(0f64, |most, value| most.max(f64::from(value.abs())));
        assert!(largest > 1e-2, "logits too small to compare: {largest}");
        for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let difference = (found - f64::from(*expected)).abs() / largest;
            assert!(
                difference < TOLERANCE,
                "{} at {at}: {found} {expected}",
                recipe.name
            );
        }
    }
}
