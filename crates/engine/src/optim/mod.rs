//! Optimisers. Their settings are here, their formulas in [`rules`]. They run on Burn's tensors in
//! `learner::burn_learner`, and as libtorch's fused steps in `libtorch`.

pub mod rules;

use serde::{Deserialize, Serialize};

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

/// Which optimiser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimiserKind {
    /// Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.
    #[default]
    Adam,
    /// Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.
    AdamW,
    /// Stochastic gradient descent with (Nesterov's) momentum, Sutskever et al., ICML 2013.
    Sgd,
    /// Tieleman and Hinton, "RMSProp", Coursera lecture 6.5, 2012; without momentum, as PyTorch's default.
    RmsProp,
}

/// RMSProp: decay of the running mean of the squared gradient.
pub const ALPHA: f64 = 0.99;

impl OptimiserKind {
    /// State per weight, by the names that checkpoints use.
    pub fn slots(self) -> &'static [&'static str] {
        match self {
            Self::Adam | Self::AdamW => &["m.", "v."],
            Self::Sgd => &["velocity."],
            Self::RmsProp => &["v."],
        }
    }

    /// The recipe's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Adam => "adam",
            Self::AdamW => "adamw",
            Self::Sgd => "sgd",
            Self::RmsProp => "rmsprop",
        }
    }
}

impl OptimiserConfig {
    /// Factor that clips gradients of this norm, as PyTorch's `clip_grad_norm_`.
    pub fn clip_factor(&self, norm: f64) -> f64 {
        (self.clip_norm / (norm + 1e-6)).min(1.0)
    }
}
