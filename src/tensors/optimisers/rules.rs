//! One step of each optimiser for one weight, on Burn's tensors; the same numbers as PyTorch's.

use burn::tensor::Tensor;

use super::{BETA1, BETA2, EPSILON, OptimiserConfig, OptimiserKind};

/// A weight (flattened) after step number `step` (from 1) along `gradient`, and what is remembered of it
/// (one tensor per slot of [`OptimiserKind::slots`]; none before the first step).
pub fn updated(
    config: &OptimiserConfig,
    weight: Tensor<1>,
    gradient: Tensor<1>,
    memory: Option<Vec<Tensor<1>>>,
    rate: f64,
    step: u64,
) -> (Tensor<1>, Vec<Tensor<1>>) {
    match config.kind {
        OptimiserKind::Adam => {
            let gradient = decayed(config, &weight, gradient);
            adam(weight, gradient, memory, rate, step)
        }
        OptimiserKind::AdamW => {
            let weight = weight * (1.0 - rate * config.weight_decay);
            adam(weight, gradient, memory, rate, step)
        }
        OptimiserKind::Sgd => {
            let gradient = decayed(config, &weight, gradient);
            sgd(config, weight, gradient, memory, rate)
        }
    }
}

/// The gradient with the penalty on large weights.
fn decayed(config: &OptimiserConfig, weight: &Tensor<1>, gradient: Tensor<1>) -> Tensor<1> {
    if config.weight_decay > 0.0 {
        gradient + weight.clone() * config.weight_decay
    } else {
        gradient
    }
}

fn adam(
    weight: Tensor<1>,
    gradient: Tensor<1>,
    memory: Option<Vec<Tensor<1>>>,
    rate: f64,
    step: u64,
) -> (Tensor<1>, Vec<Tensor<1>>) {
    let square = gradient.clone().powi_scalar(2);
    let mut memory = memory.into_iter().flatten();
    let (first, second) = match (memory.next(), memory.next()) {
        (Some(first), Some(second)) => (
            first * BETA1 + gradient * (1.0 - BETA1),
            second * BETA2 + square * (1.0 - BETA2),
        ),
        _ => (gradient * (1.0 - BETA1), square * (1.0 - BETA2)),
    };
    let step = step as f64;
    let rate = rate / (1.0 - BETA1.powf(step));
    let correction = (1.0 - BETA2.powf(step)).sqrt();
    let change = first.clone() * rate / (second.clone().sqrt() / correction + EPSILON);
    (weight - change, vec![first, second])
}

/// As PyTorch's SGD with dampening 0: the velocity starts as the first gradient.
fn sgd(
    config: &OptimiserConfig,
    weight: Tensor<1>,
    gradient: Tensor<1>,
    memory: Option<Vec<Tensor<1>>>,
    rate: f64,
) -> (Tensor<1>, Vec<Tensor<1>>) {
    let velocity = match memory.into_iter().flatten().next() {
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
