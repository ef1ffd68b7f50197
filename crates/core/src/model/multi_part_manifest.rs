//! `parts.toml`: what a model of several parts is made of.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::dataset::Structure;
use ctseg_image::labels::postprocess::Step;

/// Its name.
pub const MANIFEST: &str = "parts.toml";

/// The format that is written and read.
pub const FORMAT: u32 = 1;

/// In [`RoughManifest::stands_for`]: all structures that are not named there.
pub const OTHERS: &str = "*";

/// `parts.toml`: the final structures, the parts that find them, and the rough model that says where to look.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartedManifest {
    pub format: u32,
    pub ctseg_version: String,
    /// What the model is and where it comes from.
    pub name: String,
    /// Structure name by label value, in the label maps that are written.
    pub structures: BTreeMap<String, String>,
    /// In the order in which they are run: where two mark a voxel, the later one counts.
    pub parts: Vec<PartManifest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rough: Option<RoughManifest>,
    /// Clean-up of the merged label maps, by structure.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub postprocessing: BTreeMap<String, Vec<Step>>,
}

/// A part: an ordinary model in a folder of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartManifest {
    /// Below the folder of the whole.
    pub folder: String,
    /// [`Bundle::sha256`](crate::model::bundle::Bundle::sha256); filled in when the model is put together.
    #[serde(default)]
    pub sha256: String,
    /// What the part's label values become; those that are not there become background.
    pub labels: BTreeMap<String, u16>,
}

/// A model that finds where the structures are, so that the parts need not look at the whole volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoughManifest {
    /// Below the folder of the whole: an ordinary model, or one of several parts.
    pub folder: String,
    /// Its hash, as a part's.
    #[serde(default)]
    pub sha256: String,
    pub when: When,
    /// Around the box of what it finds.
    pub margin_mm: f64,
    /// By structure the rough model's structures that show where it is; [`OTHERS`] for all that are not named.
    pub stands_for: BTreeMap<String, Vec<String>>,
}

/// When the rough model is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// For every volume.
    Always,
    /// Only where some of the structures are wanted and not all.
    Chosen,
}

impl PartedManifest {
    /// The final structures, ascending by value.
    ///
    /// # Errors
    /// In words: a value that is no label's, a name that is there twice.
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

    /// What cannot work, if anything, as far as the manifest alone tells.
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
                    "folder '{folder}'; expected a plain name of its own for each part"
                ));
            }
        }
        for part in &self.parts {
            for (from, to) in part.lookup()? {
                if !known.contains(&to) {
                    return Err(format!(
                        "part '{}' turns its label {from} into {to}, which is no structure",
                        part.folder
                    ));
                }
                given.insert(to);
            }
        }
        if let Some(lost) = structures.iter().find(|s| !given.contains(&s.value)) {
            return Err(format!("no part gives structure '{}'", lost.name));
        }
        let is_known = |name: &str| structures.iter().any(|s| s.name == name);
        for (name, steps) in &self.postprocessing {
            if !is_known(name) {
                return Err(format!("postprocessing of '{name}', which is no structure"));
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
    /// What the part's labels become: ascending (its label, final label).
    ///
    /// # Errors
    /// In words: a value that is no label's.
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
                "rough.stands_for names '{name}', which is no structure"
            )),
            None => Ok(()),
        }
    }

    /// The rough model's structures that show where `structure` is; none where it does not know.
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

/// Whether a name stays in the folder that it is looked for in, on any system.
fn is_plain(name: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    !name.is_empty() && name.chars().all(known)
}
