//! What a kind of optimiser provides.

use burn::tensor::Tensor;

/// The formula of an optimiser, as in PyTorch.
pub trait Rule {
    /// State per weight, by the names that checkpoints use.
    const SLOTS: &'static [&'static str];

    const USES_MOMENTUM: bool = false;
    const USES_BETAS: bool = false;
    const USES_EPS: bool = false;

    /// A learning rate that works for most trainings.
    const USUAL_RATE: f64 = 1e-3;

    /// A flattened weight after one step along `gradient`, with its optimiser state (one tensor per slot; `None` before
    /// the first step).
    fn updated(
        settings: &RuleSettings,
        weight: Tensor<1>,
        gradient: Tensor<1>,
        state: Option<Vec<Tensor<1>>>,
        step: Step,
    ) -> Updated;
}

/// The settings that the formulas use, see [`OptimiserConfig`](super::OptimiserConfig).
#[derive(Debug, Clone, Copy)]
pub struct RuleSettings {
    pub weight_decay: f64,
    pub momentum: f64,
    pub nesterov: bool,
    pub betas: [f64; 2],
    pub eps: f64,
}

/// One optimiser step.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Learning rate.
    pub rate: f64,
    /// From 1.
    pub number: u64,
}

/// A weight after a step, and its optimiser state.
pub struct Updated {
    pub weight: Tensor<1>,
    pub state: Vec<Tensor<1>>,
}

impl RuleSettings {
    /// The gradient with the L2 penalty.
    pub fn decayed(&self, weight: &Tensor<1>, gradient: Tensor<1>) -> Tensor<1> {
        if self.weight_decay > 0.0 {
            gradient + weight.clone() * self.weight_decay
        } else {
            gradient
        }
    }
}
