//! Adam and AdamW.

use burn::tensor::Tensor;

use super::rule::{Rule, RuleSettings, Step, Updated};

/// Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.
pub struct Adam;

/// Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.
pub struct AdamW;

const SLOTS: &[&str] = &["m.", "v."];

impl Rule for Adam {
    const SLOTS: &'static [&'static str] = SLOTS;
    const USES_BETAS: bool = true;
    const USES_EPS: bool = true;

    fn updated(
        settings: &RuleSettings,
        weight: Tensor<1>,
        gradient: Tensor<1>,
        state: Option<Vec<Tensor<1>>>,
        step: Step,
    ) -> Updated {
        let gradient = settings.decayed(&weight, gradient);
        adam(settings, weight, gradient, state, step)
    }
}

impl Rule for AdamW {
    const SLOTS: &'static [&'static str] = SLOTS;
    const USES_BETAS: bool = true;
    const USES_EPS: bool = true;

    fn updated(
        settings: &RuleSettings,
        weight: Tensor<1>,
        gradient: Tensor<1>,
        state: Option<Vec<Tensor<1>>>,
        step: Step,
    ) -> Updated {
        let weight = weight * (1.0 - step.rate * settings.weight_decay);
        adam(settings, weight, gradient, state, step)
    }
}

fn adam(
    settings: &RuleSettings,
    weight: Tensor<1>,
    gradient: Tensor<1>,
    state: Option<Vec<Tensor<1>>>,
    step: Step,
) -> Updated {
    let [beta1, beta2] = settings.betas;
    let square = gradient.clone().powi_scalar(2);
    let mut state = state.into_iter().flatten();
    let (first, second) = match (state.next(), state.next()) {
        (Some(first), Some(second)) => (
            first * beta1 + gradient * (1.0 - beta1),
            second * beta2 + square * (1.0 - beta2),
        ),
        _ => (gradient * (1.0 - beta1), square * (1.0 - beta2)),
    };
    let number = step.number as f64;
    let rate = step.rate / (1.0 - beta1.powf(number));
    let correction = (1.0 - beta2.powf(number)).sqrt();
    let change = first.clone() * rate / (second.clone().sqrt() / correction + settings.eps);
    Updated {
        weight: weight - change,
        state: vec![first, second],
    }
}
