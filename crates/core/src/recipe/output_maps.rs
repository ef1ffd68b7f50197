//! The label values that each output map of a network marks.

use super::{Recipe, Target};

/// What all structures are called where they count as one.
pub const UNION: &str = "structures";

/// For each output map of the network the label values that it marks.
pub fn output_maps(recipe: &Recipe, structures: &[u16]) -> Vec<Vec<u16>> {
    match recipe.structures {
        Target::Union => vec![structures.to_vec()],
        Target::Each => structures.iter().map(|value| vec![*value]).collect(),
    }
}
