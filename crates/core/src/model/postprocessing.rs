//! Post-processing that is stored with a model.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::dataset::Structure;
use crate::recipe::Recipe;
use ctseg_image::labels::postprocess::Step;

/// How a model's label maps are cleaned up: `[postprocessing]` of `model.toml`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Postprocessing {
    /// How many out-of-fold predictions it was chosen or measured on.
    pub cases: usize,
    /// The gain that a step had to reach.
    pub smallest_gain: f64,
    /// By name; those that stay as they are have no steps.
    pub structures: BTreeMap<String, Cleaning>,
}

/// One structure's clean-up, and its mean Dice over the cases without and with it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cleaning {
    /// Whether the recipe names the steps.
    #[serde(default)]
    pub by_hand: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dice_before: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dice_after: Option<f64>,
    pub steps: Vec<Step>,
}

/// Something that was tried, for the run's record.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tried {
    pub structure: String,
    pub steps: Vec<Step>,
    pub mean_dice: Option<f64>,
    pub kept: bool,
}

impl Postprocessing {
    /// The steps by label value, in the order of the values; only structures that have some.
    pub fn plan(&self, structures: &[Structure]) -> Vec<(u16, Vec<Step>)> {
        let steps = |s: &Structure| {
            let cleaning = self.structures.get(&s.name)?;
            (!cleaning.steps.is_empty()).then(|| (s.value, cleaning.steps.clone()))
        };
        structures.iter().filter_map(steps).collect()
    }

    /// What the recipe names, without any figures; none where it names nothing.
    pub fn by_hand(recipe: &Recipe) -> Option<Self> {
        let config = &recipe.postprocessing;
        let structures = config.steps.iter().map(|(name, steps)| {
            let cleaning = Cleaning {
                by_hand: true,
                steps: steps.clone(),
                ..Cleaning::default()
            };
            (name.clone(), cleaning)
        });
        (!config.steps.is_empty()).then(|| Self {
            cases: 0,
            smallest_gain: config.smallest_gain,
            structures: structures.collect(),
        })
    }
}
