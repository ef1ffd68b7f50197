//! RMSProp.

use burn::tensor::Tensor;

use super::rule::{Rule, RuleSettings, Step, Updated};

/// Decay of the running mean of the squared gradient.
pub const ALPHA: f64 = 0.99;

/// Tieleman and Hinton, "RMSProp", Coursera lecture 6.5, 2012; without momentum, as PyTorch's default.
pub struct RmsProp;

impl Rule for RmsProp {
    const SLOTS: &'static [&'static str] = &["v."];
    const USES_EPS: bool = true;

    fn updated(
        settings: &RuleSettings,
        weight: Tensor<1>,
        gradient: Tensor<1>,
        state: Option<Vec<Tensor<1>>>,
        step: Step,
    ) -> Updated {
        let gradient = settings.decayed(&weight, gradient);
        let share = gradient.clone().powi_scalar(2) * (1.0 - ALPHA);
        let square = match state.into_iter().flatten().next() {
            Some(square) => square * ALPHA + share,
            None => share,
        };
        let change = gradient * step.rate / (square.clone().sqrt() + settings.eps);
        Updated {
            weight: weight - change,
            state: vec![square],
        }
    }
}
