//! How the patches of a network on volumes cover an input in use: `[sliding]` of a recipe.

use serde::{Deserialize, Serialize};

/// Distance and blending of patches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SlidingConfig {
    /// Patches begin no further apart than this share of their sides (nnU-Net's `tile_step_size`).
    pub step: f64,
    pub blending: Blending,
}

/// How much a voxel counts by its place in a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blending {
    /// The more, the nearer it lies to the middle (nnU-Net's `use_gaussian`).
    #[default]
    Gaussian,
    /// All alike.
    Constant,
}

impl Default for SlidingConfig {
    fn default() -> Self {
        Self {
            step: 0.5,
            blending: Blending::default(),
        }
    }
}

impl SlidingConfig {
    /// What cannot work about it, if anything.
    pub fn problem(&self) -> Option<&'static str> {
        let works = self.step > 0.0 && self.step <= 1.0;
        (!works).then_some("sliding.step must be above 0 and at most 1")
    }
}
