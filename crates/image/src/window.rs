//! The range of Hounsfield units that an input channel shows.

use serde::{Deserialize, Serialize};

/// A range of Hounsfield units that an input channel shows; written `[low, high]` in a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "[f32; 2]", into = "[f32; 2]")]
pub struct Window {
    /// Low end in HU.
    pub low_hu: f32,
    /// High end in HU, above the low end.
    pub high_hu: f32,
}

impl From<[f32; 2]> for Window {
    fn from([low_hu, high_hu]: [f32; 2]) -> Self {
        Self { low_hu, high_hu }
    }
}

impl From<Window> for [f32; 2] {
    fn from(window: Window) -> Self {
        [window.low_hu, window.high_hu]
    }
}

impl Default for Window {
    /// Soft tissue up to low-density bone.
    fn default() -> Self {
        [-200.0, 300.0].into()
    }
}

impl Window {
    /// The value scaled so that the window becomes 0 to 1, clamped.
    pub fn scaled(&self, hu: f32) -> f32 {
        ((hu - self.low_hu) / (self.high_hu - self.low_hu)).clamp(0.0, 1.0)
    }

    /// The value clamped to the window; non-finite values become its low end.
    pub(super) fn clamped(&self, hu: f32) -> f32 {
        match hu.is_finite() {
            true => hu.clamp(self.low_hu, self.high_hu),
            false => self.low_hu,
        }
    }
}
