//! Whole networks on libtorch against PyTorch.

use std::collections::BTreeMap;

use burn::tensor::Device;
use tch::{Kind, Tensor};

use super::ffi::{self, Mode};
use super::module::{for_training, outputs, tensors_of};
use super::ops::TorchOps;
use super::transfer::{to_device, to_host};
use crate::networks::Extras;
use crate::networks::golden::{Computed, Task, compare};

fn plain(tensor: &Tensor) -> (Vec<usize>, Vec<f32>) {
    let shape = tensor.size().iter().map(|side| *side as usize).collect();
    (shape, to_host(&tensor.detach()).unwrap())
}

fn computed(task: Task, recompute: bool) -> Computed {
    let network = for_training(task.network, 0).unwrap();
    let input = to_device(&task.input, &task.shape, tch::Device::Cpu).unwrap();
    let ops = TorchOps {
        mode: Mode::Training,
        recompute,
    };
    let wanted = Extras {
        deep: true,
        maps: true,
        features: false,
    };
    let outputs = outputs(&network, &ops, &input, Kind::Float, wanted).unwrap();
    let gradients: Vec<Tensor> = outputs
        .logits
        .iter()
        .enumerate()
        .map(|(scale, logits)| {
            let (shape, values) = plain(logits);
            let output_gradient = Task::output_gradient(scale, values.len());
            to_device(&output_gradient, &shape, tch::Device::Cpu).unwrap()
        })
        .collect();
    ffi::backward(&outputs.logits, &gradients).unwrap();
    let mut parameters = tensors_of(&network).unwrap();
    parameters.retain(|(_, parameter)| parameter.requires_grad());
    let gradients: BTreeMap<String, Vec<f32>> = parameters
        .into_iter()
        .map(|(name, parameter)| (name, to_host(&parameter.grad()).unwrap()))
        .collect();
    Computed {
        logits: outputs.logits.iter().map(plain).collect(),
        maps: outputs.maps.iter().map(plain).collect(),
        gradients,
    }
}

#[test]
fn networks_equal_pytorchs() {
    #[allow(deprecated)]
    let device = Device::libtorch();
    for recompute in [false, true] {
        compare(&device, &mut |task| computed(task, recompute));
    }
}
