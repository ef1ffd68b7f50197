//! Stochastic gradient descent.

use burn::tensor::Tensor;

use super::rule::{Rule, RuleSettings, Step, Updated};

/// With (Nesterov's) momentum, Sutskever et al., ICML 2013. As PyTorch's SGD with dampening 0: the velocity starts as
/// the first gradient.
pub struct Sgd;

impl Rule for Sgd {
    const SLOTS: &'static [&'static str] = &["velocity."];
    const USES_MOMENTUM: bool = true;
    const USUAL_RATE: f64 = 1e-2;

    fn updated(
        settings: &RuleSettings,
        weight: Tensor<1>,
        gradient: Tensor<1>,
        state: Option<Vec<Tensor<1>>>,
        step: Step,
    ) -> Updated {
        let gradient = settings.decayed(&weight, gradient);
        let velocity = match state.into_iter().flatten().next() {
            Some(velocity) => velocity * settings.momentum + gradient.clone(),
            None => gradient.clone(),
        };
        let direction = if settings.nesterov {
            gradient + velocity.clone() * settings.momentum
        } else {
            velocity.clone()
        };
        Updated {
            weight: weight - direction * step.rate,
            state: vec![velocity],
        }
    }
}
