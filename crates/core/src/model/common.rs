//! What the models of an ensemble have in common.

use std::collections::BTreeMap;

use super::bundle::Bundle;
use crate::dataset::Structure;
use ctseg_base::text::words::listed;
use ctseg_base::{Error, Result};
use ctseg_image::labels::postprocess::Step;

/// The post-processing on which all models agree, by structure; each model's was chosen on its own label maps.
pub(crate) fn common_postprocessing(bundles: &[Bundle]) -> BTreeMap<String, Vec<Step>> {
    let of = |bundle: &Bundle| -> BTreeMap<String, Vec<Step>> {
        let chosen = bundle.manifest.postprocessing.iter();
        let structures = chosen.flat_map(|chosen| &chosen.structures);
        structures
            .filter(|(_, chosen)| !chosen.steps.is_empty())
            .map(|(name, chosen)| (name.clone(), chosen.steps.clone()))
            .collect()
    };
    let mut common = bundles.first().map(of).unwrap_or_default();
    for other in bundles.iter().skip(1).map(of) {
        common.retain(|name, steps| other.get(name) == Some(steps));
    }
    common
}

/// The structures of all models.
///
/// # Errors
/// No model; models with different structures.
pub fn common_structures(bundles: &[Bundle]) -> Result<Vec<Structure>> {
    let first = bundles
        .first()
        .ok_or_else(|| Error::usage("no model given; pass one with --model FOLDER"))?;
    let structures = first.structures()?;
    for other in &bundles[1..] {
        let found = other.structures()?;
        if found != structures {
            let names = |all: &[Structure]| {
                let named = all.iter().map(|s| format!("{} {}", s.value, s.name));
                listed(&named.collect::<Vec<_>>())
            };
            return Err(Error::file(
                &other.path,
                format!(
                    "models of an ensemble must have the same structures: this one has {}, {} has {}",
                    names(&found),
                    first.path.display(),
                    names(&structures)
                ),
            ));
        }
    }
    Ok(structures)
}
