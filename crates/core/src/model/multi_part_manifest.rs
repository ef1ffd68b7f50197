//! `parts.toml`: the manifest of a multi-part model.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::dataset::Structure;
use ctseg_image::labels::postprocess::Step;

/// File name of the manifest.
pub const MANIFEST: &str = "parts.toml";

/// Version of the format.
pub const FORMAT: u32 = 1;

/// Key in [`RoughManifest::stands_for`] for all structures that are not listed.
pub const OTHERS: &str = "*";

/// `parts.toml`: the final structures, the parts that segment them, and the rough model that finds the region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MultiPartManifest {
    pub format: u32,
    pub ctseg_version: String,
    /// What the model is and where it comes from.
    pub name: String,
    /// Structure name by label value of the merged label map.
    pub structures: BTreeMap<String, String>,
    /// In the order in which they run; if two mark a voxel, the later one wins.
    pub parts: Vec<PartManifest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rough: Option<RoughManifest>,
    /// Post-processing of the merged label map, by structure.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub postprocessing: BTreeMap<String, Vec<Step>>,
}

/// A part: an ordinary model in its own folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartManifest {
    /// Name of the subfolder.
    pub folder: String,
    /// [`Bundle::sha256`](crate::model::bundle::Bundle::sha256); filled in when the model is published.
    #[serde(default)]
    pub sha256: String,
    /// Final label by the part's label; others become background.
    pub labels: BTreeMap<String, u16>,
}

/// A model that locates the structures, so that the parts need not run on the whole volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoughManifest {
    /// Name of the subfolder: an ordinary model or a multi-part model.
    pub folder: String,
    /// Like [`PartManifest::sha256`].
    #[serde(default)]
    pub sha256: String,
    pub when: When,
    /// Margin around the bounding box of what it finds.
    pub margin_mm: f64,
    /// For each structure, the rough model's structures that locate it; [`OTHERS`] for all that are not listed.
    pub stands_for: BTreeMap<String, Vec<String>>,
}

/// When the rough model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// For every volume.
    Always,
    /// Only if a subset of the structures is chosen.
    Chosen,
}

impl MultiPartManifest {
    /// The final structures, ascending by value.
    ///
    /// # Errors
    /// A message: an invalid label value, or a duplicate name.
    pub fn structures(&self) -> Result<Vec<Structure>, String> {
        let mut names = BTreeSet::new();
        let mut structures = Vec::new();
        for (value, name) in &self.structures {
            let value = label(value)?;
            if !names.insert(name) {
                return Err(format!("structure '{name}' has two label values"));
            }
            structures.push(Structure {
                value,
                name: name.clone(),
            });
        }
        structures.sort_by_key(|structure| structure.value);
        Ok(structures)
    }

    /// The first inconsistency of the manifest, if there is one.
    pub fn problem(&self) -> Option<String> {
        self.checked().err()
    }

    fn checked(&self) -> Result<(), String> {
        let structures = self.structures()?;
        let known: BTreeSet<u16> = structures.iter().map(|s| s.value).collect();
        let mut given = BTreeSet::new();
        let mut folders = BTreeSet::new();
        let parts = self.parts.iter().map(|part| &part.folder);
        for folder in parts.chain(self.rough.iter().map(|rough| &rough.folder)) {
            if !is_plain(folder) || !folders.insert(folder) {
                return Err(format!(
                    "folder '{folder}'; expected a distinct plain name for each part"
                ));
            }
        }
        for part in &self.parts {
            for (from, to) in part.lookup()? {
                if !known.contains(&to) {
                    return Err(format!(
                        "part '{}' maps its label {from} to {to}, which is not a structure",
                        part.folder
                    ));
                }
                given.insert(to);
            }
        }
        if let Some(lost) = structures.iter().find(|s| !given.contains(&s.value)) {
            return Err(format!("no part segments structure '{}'", lost.name));
        }
        let is_known = |name: &str| structures.iter().any(|s| s.name == name);
        for (name, steps) in &self.postprocessing {
            if !is_known(name) {
                return Err(format!(
                    "postprocessing of '{name}', which is not a structure"
                ));
            }
            if let Some(problem) = steps.iter().find_map(Step::problem) {
                return Err(format!("postprocessing of '{name}': {problem}"));
            }
        }
        match &self.rough {
            Some(rough) => rough.checked(&is_known),
            None => Ok(()),
        }
    }
}

impl PartManifest {
    /// Pairs (the part's label, final label), ascending.
    ///
    /// # Errors
    /// A message: an invalid label value.
    pub fn lookup(&self) -> Result<Vec<(u16, u16)>, String> {
        let mut pairs = Vec::new();
        for (from, to) in &self.labels {
            pairs.push((label(from)?, *to));
        }
        pairs.sort_unstable();
        Ok(pairs)
    }
}

impl RoughManifest {
    fn checked(&self, is_known: &dyn Fn(&str) -> bool) -> Result<(), String> {
        if !(self.margin_mm.is_finite() && self.margin_mm >= 0.0) {
            return Err("rough.margin_mm must be 0 or more".to_owned());
        }
        let mut named = self.stands_for.keys();
        match named.find(|name| *name != OTHERS && !is_known(name)) {
            Some(name) => Err(format!(
                "rough.stands_for lists '{name}', which is not a structure"
            )),
            None => Ok(()),
        }
    }

    /// The rough model's structures that locate `structure`; empty if there are none.
    pub fn shows(&self, structure: &str) -> &[String] {
        let own = self.stands_for.get(structure);
        own.or_else(|| self.stands_for.get(OTHERS))
            .map_or(&[], Vec::as_slice)
    }
}

fn label(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(value @ 1..) => Ok(value),
        _ => Err(format!(
            "label value '{text}'; expected a whole number from 1 to {}",
            u16::MAX
        )),
    }
}

/// Whether a name is a plain file name on every system, which cannot lead out of its folder.
fn is_plain(name: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    !name.is_empty() && name.chars().all(known)
}
