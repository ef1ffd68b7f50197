//! Optimisers. They run on Burn's tensors in `learner::burn_learner`, and in `libtorch` as libtorch's fused steps if
//! there are any. To add one: a file here that implements `Rule`, and its line in `registry`.

mod adam;
mod registry;
mod rmsprop;
mod rule;
mod sgd;

pub use registry::OptimiserKind;
#[cfg(feature = "libtorch")]
pub(crate) use rmsprop::ALPHA;
pub use rule::{Step, Updated};

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use rule::RuleSettings;

/// Settings of an optimiser, as under `[training.optimiser]` in a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimiserConfig {
    pub kind: OptimiserKind,
    pub learning_rate: f64,
    /// L2 penalty, added to the gradient (PyTorch's `weight_decay`); for AdamW, decoupled weight decay.
    pub weight_decay: f64,
    /// Maximum gradient norm (Euclidean, over all weights); larger gradients are scaled down.
    pub clip_norm: f64,
    /// SGD only; default as in nnU-Net.
    pub momentum: f64,
    /// SGD only.
    pub nesterov: bool,
    /// Adam and AdamW: decay of the running mean of the gradient and of its square.
    pub betas: [f64; 2],
    /// Adam, AdamW and RMSProp: added to the denominator.
    pub eps: f64,
}

impl Default for OptimiserConfig {
    fn default() -> Self {
        Self {
            kind: OptimiserKind::Adam,
            learning_rate: 1e-3,
            weight_decay: 1e-5,
            clip_norm: 12.0,
            momentum: 0.99,
            nesterov: true,
            betas: [0.9, 0.999],
            eps: 1e-8,
        }
    }
}

impl OptimiserConfig {
    /// Factor that clips gradients of this norm, as PyTorch's `clip_grad_norm_`.
    pub fn clip_factor(&self, norm: f64) -> f64 {
        (self.clip_norm / (norm + 1e-6)).min(1.0)
    }

    /// A flattened weight after one step along `gradient`, with its optimiser state (one tensor per slot of
    /// [`OptimiserKind::slots`]; `None` before the first step).
    pub fn updated(
        &self,
        weight: Tensor<1>,
        gradient: Tensor<1>,
        state: Option<Vec<Tensor<1>>>,
        step: Step,
    ) -> Updated {
        let settings = RuleSettings {
            weight_decay: self.weight_decay,
            momentum: self.momentum,
            nesterov: self.nesterov,
            betas: self.betas,
            eps: self.eps,
        };
        self.kind.updated(&settings, weight, gradient, state, step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceChoice;

    fn floats(value: &serde_json::Value) -> Vec<f32> {
        let values = value.as_array().unwrap().iter();
        values.map(|v| v.as_f64().unwrap() as f32).collect()
    }

    /// The golden files are PyTorch's (`scripts/golden/make_optimisers.py`).
    #[test]
    fn steps_equal_pytorchs() {
        let device = DeviceChoice::Auto.device().unwrap();
        let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
            .join("tests/golden/optimisers");
        for (name, kind) in [
            ("adam", OptimiserKind::Adam),
            ("adamw", OptimiserKind::AdamW),
            ("adamw_betas", OptimiserKind::AdamW),
            ("sgd_nesterov", OptimiserKind::Sgd),
            ("sgd_momentum", OptimiserKind::Sgd),
            ("sgd_weight_decay", OptimiserKind::Sgd),
            ("rmsprop", OptimiserKind::RmsProp),
        ] {
            let text = std::fs::read(folder.join(format!("{name}.json"))).unwrap();
            let golden: serde_json::Value = serde_json::from_slice(&text).unwrap();
            let number = |key: &str| golden[key].as_f64().unwrap_or(0.0);
            let config = OptimiserConfig {
                kind,
                weight_decay: number("weight_decay"),
                clip_norm: number("clip_norm"),
                momentum: number("momentum"),
                nesterov: golden["nesterov"].as_bool().unwrap_or(false),
                betas: serde_json::from_value(golden["betas"].clone()).unwrap_or([0.0; 2]),
                eps: number("eps"),
                ..OptimiserConfig::default()
            };
            for parameter in golden["parameters"].as_array().unwrap() {
                let key = parameter["name"].as_str().unwrap();
                let tensor = |values: &serde_json::Value| {
                    Tensor::<1>::from_floats(floats(values).as_slice(), &device)
                };
                let (mut weight, mut state) = (tensor(&parameter["initial"]), None);
                for (index, step) in golden["steps"].as_array().unwrap().iter().enumerate() {
                    let factor = config.clip_factor(step["gradient_norm"].as_f64().unwrap());
                    let gradient = tensor(&step["gradients"][key]) * factor;
                    let rate = step["learning_rate"].as_f64().unwrap();
                    let number = index as u64 + 1;
                    let next = config.updated(weight, gradient, state, Step { rate, number });
                    (weight, state) = (next.weight, Some(next.state));
                    let values = weight.clone().into_data().try_into_vec::<f32>().unwrap();
                    for (value, wanted) in values.iter().zip(floats(&step["parameters"][key])) {
                        assert!(
                            (value - wanted).abs() < 3e-6,
                            "{name} {key}: {value} {wanted}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn names_are_those_of_recipes() {
        for kind in OptimiserKind::ALL {
            let name = serde_json::to_string(kind).unwrap();
            assert_eq!(name, format!("\"{}\"", kind.name()));
        }
        let error = serde_json::from_str::<OptimiserKind>("\"adamax\"").unwrap_err();
        let message = "unknown variant `adamax`, expected one of `adam`, `adamw`, `sgd`, `rmsprop`";
        assert!(error.to_string().starts_with(message), "{error}");
    }
}
