//! The label values of each output map of a network.

use super::{Recipe, Target};

/// The name of the union of all structures.
pub const UNION: &str = "structures";

/// The label values of each output map of the network.
pub fn output_maps(recipe: &Recipe, structures: &[u16]) -> Vec<Vec<u16>> {
    match recipe.structures {
        Target::Union => vec![structures.to_vec()],
        Target::Each => structures.iter().map(|value| vec![*value]).collect(),
    }
}
