//! Adam with clipping of the gradient's global norm, on whole networks, with a state that can be saved.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::networks::Network;
use super::weights::{HostTensor, NamedTensors, PathNames, below_prefix, prefixed};
use crate::error::{Error, Result};

/// Settings of [`Adam`], as under `[optimiser]` in a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamConfig {
    pub learning_rate: f64,
    /// L2 penalty, added to the gradient (PyTorch's `Adam(weight_decay=…)`).
    pub weight_decay: f64,
    /// Longest gradient (Euclidean norm over all weights) that a step follows; longer ones are scaled down.
    pub clip_norm: f64,
}

impl Default for AdamConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            weight_decay: 1e-5,
            clip_norm: 12.0,
        }
    }
}

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015; the same numbers as PyTorch's.
pub struct Adam {
    config: AdamConfig,
    steps: u64,
    /// First and second moments by parameter name, flattened.
    moments: BTreeMap<String, (Tensor<1>, Tensor<1>)>,
}

impl Adam {
    pub fn new(config: AdamConfig) -> Self {
        Self {
            config,
            steps: 0,
            moments: BTreeMap::new(),
        }
    }

    /// One step at `learning_rate`. Returns the network and the gradient's norm before clipping; when that
    /// norm is not finite, the network comes back unchanged.
    pub fn step(
        &mut self,
        network: Network,
        mut gradients: Gradients,
        learning_rate: f64,
    ) -> (Network, f64) {
        let mut collected = Collector {
            names: PathNames::default(),
            source: &mut gradients,
            gradients: BTreeMap::new(),
            squares: Vec::new(),
        };
        network.visit(&mut collected);
        let norm = collected.squares.iter().sum::<f64>().sqrt();
        if !norm.is_finite() {
            return (network, norm);
        }
        self.steps += 1;
        let gradients = collected.gradients;
        let network = network.map(&mut Update {
            names: PathNames::default(),
            gradients,
            scale: (self.config.clip_norm / norm).min(1.0),
            learning_rate,
            adam: self,
        });
        (network, norm)
    }

    /// One weight (flattened) after one step along its gradient, and its new moments.
    fn updated(
        &self,
        weight: Tensor<1>,
        mut gradient: Tensor<1>,
        moments: Option<(Tensor<1>, Tensor<1>)>,
        learning_rate: f64,
    ) -> (Tensor<1>, (Tensor<1>, Tensor<1>)) {
        if self.config.weight_decay > 0.0 {
            gradient = gradient + weight.clone() * self.config.weight_decay;
        }
        let square = gradient.clone().powi_scalar(2);
        let (first, second) = match moments {
            Some((first, second)) => (
                first * BETA1 + gradient * (1.0 - BETA1),
                second * BETA2 + square * (1.0 - BETA2),
            ),
            None => (gradient * (1.0 - BETA1), square * (1.0 - BETA2)),
        };
        let steps = self.steps as f64;
        let rate = learning_rate / (1.0 - BETA1.powf(steps));
        let correction = (1.0 - BETA2.powf(steps)).sqrt();
        let change = first.clone() * rate / (second.clone().sqrt() / correction + EPSILON);
        (weight - change, (first, second))
    }

    /// The state to save: moments by name, and the number of steps taken.
    pub fn state(&self) -> Result<(NamedTensors, u64)> {
        let mut state = NamedTensors::new();
        for (name, (first, second)) in &self.moments {
            for (prefix, tensor) in [("m.", first), ("v.", second)] {
                let shape = tensor.dims().to_vec();
                let values = tensor
                    .clone()
                    .into_data()
                    .try_into_vec::<f32>()
                    .map_err(|error| {
                        Error::invalid(format!("cannot read Adam's state: {error:?}"))
                    })?;
                state.extend(prefixed(
                    prefix,
                    NamedTensors::from([(name.clone(), HostTensor { shape, values })]),
                ));
            }
        }
        Ok((state, self.steps))
    }

    /// Goes on from a state that [`Adam::state`] gave.
    pub fn restored(config: AdamConfig, state: &NamedTensors, steps: u64, device: &Device) -> Self {
        let tensor = |host: &HostTensor| {
            Tensor::<1>::from_data(
                TensorData::new(host.values.clone(), [host.values.len()]),
                device,
            )
        };
        let second = below_prefix("v.", state);
        let moments = below_prefix("m.", state)
            .iter()
            .filter_map(|(name, first)| {
                Some((name.clone(), (tensor(first), tensor(second.get(name)?))))
            })
            .collect();
        Self {
            config,
            steps,
            moments,
        }
    }
}

/// Takes the gradients out of Burn's container, by parameter name.
struct Collector<'a> {
    names: PathNames,
    source: &'a mut Gradients,
    gradients: BTreeMap<String, Tensor<1>>,
    squares: Vec<f64>,
}

impl ModuleVisitor for Collector<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() {
            return;
        }
        if let Some(gradient) = param.val().grad_remove(self.source) {
            let gradient: Tensor<1> = gradient.flatten(0, D - 1);
            let square = gradient.clone().powi_scalar(2).sum().into_scalar::<f32>();
            self.squares.push(f64::from(square));
            self.gradients.insert(self.names.current(), gradient);
        }
    }
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.names.enter(name, container_type);
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.names.exit();
    }
}

struct Update<'a> {
    names: PathNames,
    gradients: BTreeMap<String, Tensor<1>>,
    scale: f64,
    learning_rate: f64,
    adam: &'a mut Adam,
}

impl ModuleMapper for Update<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.names.current();
        let Some(gradient) = self.gradients.remove(&name) else {
            return param;
        };
        let (id, weight, mapper) = param.consume();
        let weight = weight.inner();
        let shape = weight.dims();
        let weight: Tensor<1> = weight.flatten(0, D - 1);
        let moments = self.adam.moments.remove(&name);
        let (weight, moments) =
            self.adam
                .updated(weight, gradient * self.scale, moments, self.learning_rate);
        self.adam.moments.insert(name, moments);
        Param::from_mapped_value(
            id,
            Tensor::from_inner(weight.reshape(shape)).require_grad(),
            mapper,
        )
    }
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.names.enter(name, container_type);
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.names.exit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensors::device::DeviceChoice;

    #[test]
    fn steps_equal_pytorch() {
        // PyTorch 2.11: w = [.5, -1, 2], loss = Σ (w·c)², c = [1, 2, -3], Adam(lr=0.1, weight_decay=0.01),
        // clip_grad_norm_(5) before each step.
        let golden = [
            [0.4000000059604645, -0.9000000357627869, 1.899999976158142],
            [0.3008061647415161, -0.8001693487167358, 1.7999939918518066],
            [0.2034362554550171, -0.7006687521934509, 1.6999777555465698],
        ];
        let device = DeviceChoice::Auto.device().unwrap();
        let mut adam = Adam::new(AdamConfig {
            weight_decay: 0.01,
            ..AdamConfig::default()
        });
        let factor = Tensor::<1>::from_floats([1.0, 4.0, 9.0], &device);
        let mut weight = Tensor::<1>::from_floats([0.5, -1.0, 2.0], &device);
        let mut moments = None;
        for expected in golden {
            let gradient = weight.clone() * factor.clone() * 2.0;
            let norm = gradient
                .clone()
                .powi_scalar(2)
                .sum()
                .sqrt()
                .into_scalar::<f32>();
            adam.steps += 1;
            let clipped = gradient * (5.0 / f64::from(norm)).min(1.0);
            let (next, state) = adam.updated(weight, clipped, moments, 0.1);
            (weight, moments) = (next, Some(state));
            let values = weight.clone().into_data().try_into_vec::<f32>().unwrap();
            for (value, wanted) in values.iter().zip(expected) {
                assert!(
                    (f64::from(*value) - wanted).abs() < 2e-6,
                    "{values:?} {expected:?}"
                );
            }
        }
    }
}
