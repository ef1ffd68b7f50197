//! Sliding-window inference: `[sliding]` of a recipe.

use serde::{Deserialize, Serialize};

/// Step and blending of patches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SlidingConfig {
    /// Step between patches as a share of the patch size (nnU-Net's `tile_step_size`).
    pub step: f64,
    pub blending: Blending,
}

/// Weight of a voxel by its position in a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blending {
    /// Highest at the centre (nnU-Net's `use_gaussian`).
    #[default]
    Gaussian,
    /// Equal everywhere.
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
    /// The first invalid setting, if any.
    pub fn problem(&self) -> Option<&'static str> {
        // Smaller steps are mistakes: a volume would have millions of patches.
        let works = (0.01..=1.0).contains(&self.step);
        (!works).then_some("sliding.step must be 0.01 to 1")
    }
}
