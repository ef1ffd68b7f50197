//! What a network's outputs mean, and how much each class counts.

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

/// What a network's outputs mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outputs {
    /// Each structure is there or not, whatever the others are.
    #[default]
    Independent,
    /// Every voxel belongs to one structure or to the background.
    Exclusive,
}

impl Outputs {
    /// The recipe's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Independent => "independent",
            Self::Exclusive => "exclusive",
        }
    }
}

/// How much each class counts.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassWeights {
    /// Of each output map.
    pub structures: Vec<f64>,
    /// Of the background of exclusive classes.
    pub background: f64,
}

impl ClassWeights {
    pub(super) fn row(&self, device: &Device) -> Tensor<1> {
        let weights: Vec<f32> = self
            .structures
            .iter()
            .map(|weight| *weight as f32)
            .collect();
        let shape = [weights.len()];
        Tensor::from_data(TensorData::new(weights, shape), device)
    }
}
