//! The part of a recipe that says how label maps are cleaned up.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use ctseg_image::labels::postprocess::Step;

/// How label maps are cleaned up, structure by structure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PostprocessingConfig {
    /// Whether steps are tried on out-of-fold predictions, and kept where they gain.
    pub choose: bool,
    /// The mean Dice over the cases that a step must gain to be kept. Below a thousandth it is as likely luck.
    pub smallest_gain: f64,
    /// Steps by structure that are used whatever they gain; nothing else is tried for these structures.
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
    /// What cannot work, if anything.
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
