//! The post-processing that is stored in a model.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::dataset::Structure;
use crate::recipe::Recipe;
use ctseg_image::labels::postprocess::Step;

/// `[postprocessing]` of `model.toml`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Postprocessing {
    /// Number of out-of-fold predictions that it was chosen or evaluated on.
    pub cases: usize,
    /// The gain in Dice that a step had to reach.
    pub smallest_gain: f64,
    /// By name; structures without post-processing have no steps.
    pub structures: BTreeMap<String, StructurePostprocessing>,
}

/// One structure's post-processing, and its mean Dice over the cases before and after.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StructurePostprocessing {
    /// Whether the steps were set in the recipe.
    #[serde(default)]
    pub by_hand: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dice_before: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dice_after: Option<f64>,
    pub steps: Vec<Step>,
}

/// A candidate that was evaluated, for the run folder.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Candidate {
    pub structure: String,
    pub steps: Vec<Step>,
    pub mean_dice: Option<f64>,
    pub kept: bool,
}

impl Postprocessing {
    /// The steps by label value, for structures that have steps.
    pub fn plan(&self, structures: &[Structure]) -> Vec<(u16, Vec<Step>)> {
        let steps = |s: &Structure| {
            let chosen = self.structures.get(&s.name)?;
            (!chosen.steps.is_empty()).then(|| (s.value, chosen.steps.clone()))
        };
        structures.iter().filter_map(steps).collect()
    }

    /// The steps set in the recipe, without scores; `None` if there are none.
    pub fn by_hand(recipe: &Recipe) -> Option<Self> {
        let config = &recipe.postprocessing;
        let structures = config.steps.iter().map(|(name, steps)| {
            let chosen = StructurePostprocessing {
                by_hand: true,
                steps: steps.clone(),
                ..StructurePostprocessing::default()
            };
            (name.clone(), chosen)
        });
        (!config.steps.is_empty()).then(|| Self {
            cases: 0,
            smallest_gain: config.smallest_gain,
            structures: structures.collect(),
        })
    }
}
