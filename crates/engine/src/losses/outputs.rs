//! The kind of a network's outputs, and class weights.

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

/// The kind of a network's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outputs {
    /// Structures may overlap; one sigmoid each.
    #[default]
    Independent,
    /// Every voxel belongs to one structure or to the background; softmax.
    Exclusive,
}

impl Outputs {
    /// The name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Independent => "independent",
            Self::Exclusive => "exclusive",
        }
    }
}

/// Class weights of the loss.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassWeights {
    /// Per output map.
    pub structures: Vec<f64>,
    /// The background's, for exclusive classes.
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
