//! The loss of a stage: its recipe's, with the weights of the dataset's structures.

use ctseg_base::{Error, Result};
use ctseg_core::dataset::Dataset;
use ctseg_core::recipe::{Recipe, Target};
use ctseg_engine::losses::{ClassWeights, Loss, Outputs};

/// How `training.class_weights` calls what is no structure.
const BACKGROUND: &str = "background";

/// What training minimises on `dataset`.
///
/// # Errors
/// Weights of classes that there are not, or of structures that are marked together.
pub fn stage_loss(recipe: &Recipe, dataset: &Dataset) -> Result<Loss> {
    Ok(Loss {
        config: recipe.training.loss.clone(),
        outputs: recipe.outputs,
        weights: class_weights(recipe, dataset)?,
        ignores: dataset.ignore.is_some(),
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
            (false, _) => "the stage marks all structures as one",
            (true, true) => "expected names of the dataset's structures or background",
            (true, false) => "expected names of the dataset's structures",
        };
        return Err(Error::invalid(format!(
            "training.class_weights names '{unknown}', which is no class of stage {}: {why}",
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
