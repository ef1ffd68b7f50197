//! Postprocessing of label maps: `[postprocessing]` of a recipe.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use ctseg_image::labels::postprocess::Step;

/// Postprocessing of label maps, per structure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PostprocessingConfig {
    /// Whether to try steps on out-of-fold predictions and keep those that improve Dice.
    pub choose: bool,
    /// Minimum gain in mean Dice for a step to be kept; a gain below 0.001 may be chance.
    pub smallest_gain: f64,
    /// Steps per structure that are always used; no others are tried for these structures.
    pub steps: BTreeMap<String, Vec<Step>>,
}

impl Default for PostprocessingConfig {
    fn default() -> Self {
        Self {
            choose: true,
            smallest_gain: 0.001,
            steps: BTreeMap::new(),
        }
    }
}

impl PostprocessingConfig {
    /// The first invalid setting, if any.
    pub(super) fn problem(&self) -> Option<String> {
        if !(self.smallest_gain.is_finite() && self.smallest_gain >= 0.0) {
            return Some("postprocessing.smallest_gain must be 0 or more".to_owned());
        }
        let mut steps = self
            .steps
            .iter()
            .flat_map(|(name, steps)| steps.iter().map(move |step| (name, step)));
        steps.find_map(|(name, step)| {
            step.problem()
                .map(|problem| format!("postprocessing.steps.{name}: {problem}"))
        })
    }
}
