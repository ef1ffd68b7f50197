//! The loss of a stage: the recipe's, with class weights by structure name.

use ctseg_base::{Error, Result};
use ctseg_core::dataset::Dataset;
use ctseg_core::recipe::{Recipe, Target};
use ctseg_engine::losses::{ClassWeights, Loss, Outputs};

/// Name of the background in `training.class_weights`.
const BACKGROUND: &str = "background";

/// The loss that training minimises on `dataset`.
///
/// # Errors
/// `training.class_weights` names an unknown class, or a structure of a stage that has one output for all.
pub fn stage_loss(recipe: &Recipe, dataset: &Dataset) -> Result<Loss> {
    Ok(Loss {
        config: recipe.training.loss.clone(),
        outputs: recipe.outputs,
        weights: class_weights(recipe, dataset)?,
        ignore_nan: dataset.ignore.is_some(),
    })
}

fn class_weights(recipe: &Recipe, dataset: &Dataset) -> Result<Option<ClassWeights>> {
    let given = &recipe.training.class_weights;
    if given.is_empty() {
        return Ok(None);
    }
    let exclusive = recipe.outputs == Outputs::Exclusive;
    let each = recipe.structures == Target::Each;
    let known = |name: &str| {
        exclusive && name == BACKGROUND || each && dataset.structures.iter().any(|s| s.name == name)
    };
    if let Some(unknown) = given.keys().find(|name| !known(name)) {
        let why = match (each, exclusive) {
            (false, _) => "the stage has one output for all structures",
            (true, true) => "expected names of the dataset's structures or background",
            (true, false) => "expected names of the dataset's structures",
        };
        return Err(Error::invalid(format!(
            "training.class_weights names '{unknown}', which is not a class of recipe {}: {why}",
            recipe.name
        )));
    }
    let of = |name: &str| given.get(name).copied().unwrap_or(1.0);
    let structures = match each {
        true => dataset.structures.iter().map(|s| of(&s.name)).collect(),
        false => vec![1.0],
    };
    Ok(Some(ClassWeights {
        structures,
        background: of(BACKGROUND),
    }))
}
