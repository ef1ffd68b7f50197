//! One step of each optimiser on Burn's tensors; equals PyTorch's.

use burn::tensor::Tensor;

use super::{ALPHA, OptimiserConfig, OptimiserKind};

/// A flattened weight after step number `step` (from 1) along `gradient`, and its optimiser state (one tensor per
/// slot of [`OptimiserKind::slots`]; `None` before the first step).
pub fn updated(
    config: &OptimiserConfig,
    weight: Tensor<1>,
    gradient: Tensor<1>,
    state: Option<Vec<Tensor<1>>>,
    rate: f64,
    step: u64,
) -> (Tensor<1>, Vec<Tensor<1>>) {
    match config.kind {
        OptimiserKind::Adam => {
            let gradient = decayed(config, &weight, gradient);
            adam(config, weight, gradient, state, (rate, step))
        }
        OptimiserKind::AdamW => {
            let weight = weight * (1.0 - rate * config.weight_decay);
            adam(config, weight, gradient, state, (rate, step))
        }
        OptimiserKind::Sgd => {
            let gradient = decayed(config, &weight, gradient);
            sgd(config, weight, gradient, state, rate)
        }
        OptimiserKind::RmsProp => {
            let gradient = decayed(config, &weight, gradient);
            rmsprop(config, weight, gradient, state, rate)
        }
    }
}

/// The gradient with the L2 penalty.
fn decayed(config: &OptimiserConfig, weight: &Tensor<1>, gradient: Tensor<1>) -> Tensor<1> {
    if config.weight_decay > 0.0 {
        gradient + weight.clone() * config.weight_decay
    } else {
        gradient
    }
}

fn adam(
    config: &OptimiserConfig,
    weight: Tensor<1>,
    gradient: Tensor<1>,
    state: Option<Vec<Tensor<1>>>,
    (rate, step): (f64, u64),
) -> (Tensor<1>, Vec<Tensor<1>>) {
    let [beta1, beta2] = config.betas;
    let square = gradient.clone().powi_scalar(2);
    let mut state = state.into_iter().flatten();
    let (first, second) = match (state.next(), state.next()) {
        (Some(first), Some(second)) => (
            first * beta1 + gradient * (1.0 - beta1),
            second * beta2 + square * (1.0 - beta2),
        ),
        _ => (gradient * (1.0 - beta1), square * (1.0 - beta2)),
    };
    let step = step as f64;
    let rate = rate / (1.0 - beta1.powf(step));
    let correction = (1.0 - beta2.powf(step)).sqrt();
    let change = first.clone() * rate / (second.clone().sqrt() / correction + config.eps);
    (weight - change, vec![first, second])
}

/// As PyTorch's SGD with dampening 0: the velocity starts as the first gradient.
fn sgd(
    config: &OptimiserConfig,
    weight: Tensor<1>,
    gradient: Tensor<1>,
    state: Option<Vec<Tensor<1>>>,
    rate: f64,
) -> (Tensor<1>, Vec<Tensor<1>>) {
    let velocity = match state.into_iter().flatten().next() {
        Some(velocity) => velocity * config.momentum + gradient.clone(),
        None => gradient.clone(),
    };
    let direction = if config.nesterov {
        gradient + velocity.clone() * config.momentum
    } else {
        velocity.clone()
    };
    (weight - direction * rate, vec![velocity])
}

fn rmsprop(
    config: &OptimiserConfig,
    weight: Tensor<1>,
    gradient: Tensor<1>,
    state: Option<Vec<Tensor<1>>>,
    rate: f64,
) -> (Tensor<1>, Vec<Tensor<1>>) {
    let share = gradient.clone().powi_scalar(2) * (1.0 - ALPHA);
    let square = match state.into_iter().flatten().next() {
        Some(square) => square * ALPHA + share,
        None => share,
    };
    let change = gradient * rate / (square.clone().sqrt() + config.eps);
    (weight - change, vec![square])
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
                    let (next, kept) = updated(&config, weight, gradient, state, rate, number);
                    (weight, state) = (next, Some(kept));
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
}
