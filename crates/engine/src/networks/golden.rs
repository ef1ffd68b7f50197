//! For tests: compares whole networks on an engine with PyTorch (`scripts/golden/make_networks.py`).

use std::collections::BTreeMap;

use burn::tensor::Device;
use serde_json::Value;

use super::{Network, NetworkConfig};
use crate::weights::{NamedTensors, is_trained, network_tensors, with_tensors};

/// The golden files.
pub const CASES: [&str; 7] = [
    "unet2d",
    "unet2d_attention",
    "unet2_5d_group",
    "unet3d",
    "unet3d_attention",
    "resenc2d",
    "resenc3d",
];

/// The files hold every seventh logit.
const STEP: usize = 7;

/// Largest difference, relative to the largest value.
const TOLERANCE: f64 = 2e-4;

/// The outputs of an engine in training mode: logits per scale and map per gate, each with its shape, and the
/// gradients of Σ logits · output_gradient by name.
pub struct Computed {
    pub logits: Vec<(Vec<usize>, Vec<f32>)>,
    pub maps: Vec<(Vec<usize>, Vec<f32>)>,
    pub gradients: BTreeMap<String, Vec<f32>>,
}

/// A network on `device` without autodiff, with its input.
pub struct Task {
    pub network: Network,
    pub input: Vec<f32>,
    pub shape: [usize; 5],
}

impl Task {
    pub fn output_gradient(scale: usize, count: usize) -> Vec<f32> {
        (0..count)
            .map(|i| (0.61 * i as f64 + scale as f64).cos() as f32)
            .collect()
    }
}

/// Passes each case's task to `compute` and compares the result.
pub fn compare(device: &Device, compute: &mut dyn FnMut(Task) -> Computed) {
    for name in CASES {
        let golden = read(name);
        let number = |key: &str| golden[key].as_u64().unwrap() as usize;
        let config: NetworkConfig = serde_json::from_value(golden["network"].clone()).unwrap();
        let network = config
            .init(number("channels"), number("structures"), device)
            .unwrap();
        let tensors = weights(&network);
        let shape: [usize; 5] = serde_json::from_value(golden["input"].clone()).unwrap();
        let input = (0..shape.iter().product::<usize>()).map(|i| {
            let i = i as f64;
            ((0.7391 * i).sin() + 0.3 * (0.0137 * i).cos()) as f32
        });
        let computed = compute(Task {
            network: with_tensors(network, &tensors, device).unwrap(),
            input: input.collect(),
            shape,
        });
        compare_sampled(name, &golden["scales"], &computed.logits);
        compare_sampled(name, &golden["maps"], &computed.maps);
        compare_gradients(name, &golden["gradients"], &computed.gradients);
    }
}

/// The network's tensors with values from a formula.
pub fn weights(network: &Network) -> NamedTensors {
    let mut tensors = network_tensors(network).unwrap();
    let trained = tensors.iter_mut().filter(|(name, _)| is_trained(name));
    for (number, (name, tensor)) in trained.enumerate() {
        let fan_in = match name.starts_with("up.") {
            true => tensor.shape[0],
            false => tensor.shape[1..].iter().product(),
        };
        let weight = tensor.shape.len() > 1;
        for (i, value) in tensor.values.iter_mut().enumerate() {
            let w = (1.618 * i as f64 + 0.9 * number as f64).sin();
            *value = match weight {
                true => 2.0 * w / (fan_in as f64).sqrt(),
                false if name.ends_with("gamma") => 1.0 + 0.2 * w,
                false => 0.1 * w,
            } as f32;
        }
    }
    tensors
}

fn read(name: &str) -> Value {
    let path = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .join(format!("tests/golden/networks/{name}.json"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn compare_sampled(name: &str, golden: &Value, found: &[(Vec<usize>, Vec<f32>)]) {
    let golden = golden.as_array().unwrap();
    assert_eq!(golden.len(), found.len(), "{name}");
    for (index, (wanted, (shape, values))) in golden.iter().zip(found).enumerate() {
        let wanted_shape: Vec<usize> = serde_json::from_value(wanted["shape"].clone()).unwrap();
        assert_eq!(*shape, wanted_shape, "{name} {index}");
        let wanted: Vec<f64> = serde_json::from_value(wanted["values"].clone()).unwrap();
        let largest = wanted.iter().fold(1e-6, |a: f64, v| a.max(v.abs()));
        assert_eq!(values.len().div_ceil(STEP), wanted.len());
        for (a, b) in values.iter().step_by(STEP).zip(&wanted) {
            let apart = (f64::from(*a) - b).abs() / largest;
            assert!(apart < TOLERANCE, "{name} {index}: {a} for {b}");
        }
    }
}

fn compare_gradients(name: &str, golden: &Value, found: &BTreeMap<String, Vec<f32>>) {
    let golden = golden.as_object().unwrap();
    let names: Vec<&String> = golden.keys().collect();
    assert_eq!(found.keys().collect::<Vec<_>>(), names, "{name}");
    for (key, wanted) in golden {
        let values = found[key].iter().map(|v| f64::from(*v));
        let norm = values.clone().map(|v| v * v).sum::<f64>().sqrt();
        let product: f64 = values
            .enumerate()
            .map(|(i, v)| v * (0.3 * i as f64).cos())
            .sum();
        let [wanted_norm, wanted_product] = [0, 1].map(|at| wanted[at].as_f64().unwrap());
        let allowed = 5.0 * TOLERANCE * wanted_norm.max(1e-3);
        assert!(
            (norm - wanted_norm).abs() < allowed && (product - wanted_product).abs() < allowed,
            "{name}: gradient by {key}: {norm} {product} for {wanted_norm} {wanted_product}"
        );
    }
}

#[cfg(feature = "flex")]
mod tests {
    use burn::module::{Module, Param};
    use burn::tensor::{Gradients, Tensor, TensorData};

    use super::*;
    use crate::named_parameters::{NamedVisitor, visit_named};
    use crate::networks::Extras;

    struct Read<'a> {
        gradients: &'a Gradients,
        found: BTreeMap<String, Vec<f32>>,
    }

    impl NamedVisitor for Read<'_> {
        fn visit<const D: usize>(&mut self, name: String, param: &Param<Tensor<D>>) {
            if let Some(gradient) = param.val().grad(self.gradients) {
                let values = gradient.into_data().try_into_vec::<f32>().unwrap();
                self.found.insert(name, values);
            }
        }
    }

    fn plain(tensor: &Tensor<5>) -> (Vec<usize>, Vec<f32>) {
        let values = tensor.clone().into_data().try_into_vec::<f32>().unwrap();
        (tensor.dims().to_vec(), values)
    }

    #[test]
    fn networks_equal_pytorchs() {
        let device = Device::flex();
        compare(&device, &mut |task| {
            let device = device.clone().autodiff();
            let network = task.network.train();
            let input = TensorData::new(task.input, task.shape);
            let wanted = Extras {
                deep: true,
                maps: true,
                features: false,
            };
            let outputs = network
                .outputs(Tensor::from_data(input, &device), wanted)
                .unwrap();
            let parts = outputs.logits.iter().enumerate().map(|(scale, logits)| {
                let output_gradient = Task::output_gradient(scale, logits.shape().num_elements());
                let output_gradient = TensorData::new(output_gradient, logits.dims());
                (logits.clone() * Tensor::from_data(output_gradient, &device)).sum()
            });
            let gradients = parts.reduce(|a, b| a + b).unwrap().backward();
            let mut read = Read {
                gradients: &gradients,
                found: BTreeMap::new(),
            };
            visit_named(&network, &mut read);
            Computed {
                logits: outputs.logits.iter().map(plain).collect(),
                maps: outputs.maps.iter().map(plain).collect(),
                gradients: read.found,
            }
        });
    }
}
