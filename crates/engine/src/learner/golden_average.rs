//! For tests: compares averages of whole networks with PyTorch's (`scripts/golden/make_average.py`).

use burn::tensor::Device;
use serde_json::Value;

use crate::networks::{Network, NetworkConfig, UnetConfig};
use crate::weights::{NamedTensors, is_trained, network_tensors, with_tensors};

/// Passes the networks of every file (the initial one first) and the decay to `averaged`, and compares its result
/// after each step.
pub fn compare(device: &Device, averaged: &mut dyn FnMut(&[Network], f64) -> Vec<NamedTensors>) {
    let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .join("tests/golden/average");
    for name in ["rising", "risen"] {
        let text = std::fs::read(folder.join(format!("{name}.json"))).unwrap();
        let golden: Value = serde_json::from_slice(&text).unwrap();
        let steps = golden["steps"].as_array().unwrap();
        let networks: Vec<Network> = std::iter::once(&golden["initial"])
            .chain(steps)
            .map(|values| with_tensors(network(device), &filled(values, "", device), device))
            .collect::<Result<_, _>>()
            .unwrap();
        let after = averaged(&networks, golden["decay"].as_f64().unwrap());
        assert_eq!(after.len(), steps.len());
        for (step, (ours, values)) in after.iter().zip(steps).enumerate() {
            for (key, wanted) in filled(values, "average_", device) {
                for (a, b) in ours[&key].values.iter().zip(&wanted.values) {
                    assert!((a - b).abs() < 1e-6, "{name} {step} {key}: {a} {b}");
                }
            }
        }
    }
}

fn network(device: &Device) -> Network {
    let config = UnetConfig {
        widths: vec![2, 4],
        ..UnetConfig::default()
    };
    NetworkConfig::Unet2d(config).init(1, 2, device).unwrap()
}

/// The network's tensors, filled with the file's values repeatedly.
fn filled(values: &Value, prefix: &str, device: &Device) -> NamedTensors {
    let mut tensors = network_tensors(&network(device)).unwrap();
    let mut statistics = 0;
    for (name, tensor) in &mut tensors {
        let key = if is_trained(name) {
            "weight"
        } else {
            "running_mean"
        };
        statistics += usize::from(!is_trained(name));
        let from = values[format!("{prefix}{key}")].as_array().unwrap();
        for (index, value) in tensor.values.iter_mut().enumerate() {
            *value = from[index % from.len()].as_f64().unwrap() as f32;
        }
    }
    assert!(statistics > 0 && statistics < tensors.len());
    tensors
}
