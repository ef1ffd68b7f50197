//! Label values in the source and in the converted dataset, where they are consecutive as nnU-Net requires.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::target::Format;
use ctseg_base::text::words::listed;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::Dataset;
use ctseg_image::space::LabelMap;

/// nnU-Net's name for unlabelled voxels to ignore; they have the highest value.
const IGNORE: &str = "ignore";

/// A structure's value in the source and in the converted dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelEntry {
    pub name: String,
    pub source_value: u16,
    pub value: u16,
}

/// All labels except background, in ascending order of value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels(pub Vec<LabelEntry>);

impl Labels {
    /// Numbers the dataset's structures from 1 in order of value, followed by the ignore label.
    ///
    /// # Errors
    /// Structure names that are reserved in the layout.
    pub fn of(dataset: &Dataset, format: Format) -> Result<Self> {
        let structures = dataset.structures.iter();
        let structures = structures.map(|structure| (structure.name.as_str(), structure.value));
        let all = structures.chain(dataset.ignore.map(|value| (IGNORE, value)));
        let entries: Vec<LabelEntry> = (1..=u16::MAX)
            .zip(all)
            .map(|(value, (name, source_value))| LabelEntry {
                name: name.to_owned(),
                source_value,
                value,
            })
            .collect();
        let reserved = |structure: &&LabelEntry| {
            let name = structure.name.to_ascii_lowercase();
            name == "background"
                || (name == IGNORE && dataset.ignore != Some(structure.source_value))
        };
        if let Some(taken) = entries.iter().find(reserved) {
            return Err(Error::invalid(format!(
                "dataset '{}': the structure with value {} is named '{}', a reserved name in {format}; rename it in a descriptor (.toml)",
                dataset.name, taken.source_value, taken.name
            )));
        }
        Ok(Self(entries))
    }

    /// Whether no value changes.
    pub fn are_kept(&self) -> bool {
        self.0.iter().all(|label| label.source_value == label.value)
    }

    /// `map` with the values of the converted dataset; values that are not source labels are kept.
    pub fn renumbered(&self, mut map: LabelMap) -> LabelMap {
        if !self.are_kept() {
            let table: BTreeMap<u16, u16> =
                self.0.iter().map(|l| (l.source_value, l.value)).collect();
            let last = table.keys().next_back().copied().unwrap_or(0);
            let new: Vec<u16> = (0..=last)
                .map(|value| table.get(&value).copied().unwrap_or(value))
                .collect();
            map.data
                .mapv_inplace(|value| new.get(usize::from(value)).copied().unwrap_or(value));
        }
        map
    }

    /// The renumbering as text, such as `liver 5 → 1, spleen 7 → 2`.
    pub fn describe(&self) -> String {
        let words = self
            .0
            .iter()
            .map(|label| format!("{} {} → {}", label.name, label.source_value, label.value));
        listed(&words.collect::<Vec<_>>())
    }
}
