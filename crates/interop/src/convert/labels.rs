//! Label values of the source and of the converted dataset: consecutive there, as nnU-Net wants them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::target::Format;
use ctseg_base::text::words::listed;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::Dataset;
use ctseg_image::space::LabelMap;

/// What nnU-Net calls voxels of which nothing is known; their value is the highest.
const IGNORE: &str = "ignore";

/// A structure's value in the source and in the converted dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelEntry {
    pub name: String,
    pub source_value: u16,
    pub value: u16,
}

/// All labels but background, ascending by value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels(pub Vec<LabelEntry>);

impl Labels {
    /// The dataset's structures numbered from 1 in the order of their values, then the voxels to be ignored.
    ///
    /// # Errors
    /// Structures whose names mean something else in the layout.
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
                "dataset '{}': the structure of value {} is named '{}', which means something else in {format}; rename it in a descriptor (.toml)",
                dataset.name, taken.source_value, taken.name
            )));
        }
        Ok(Self(entries))
    }

    /// Whether all values stay as they are.
    pub fn are_kept(&self) -> bool {
        self.0.iter().all(|label| label.source_value == label.value)
    }

    /// `map` with the values of the converted dataset; those that are no label of the source stay.
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

    /// `liver 5 → 1, spleen 7 → 2`.
    pub fn in_words(&self) -> String {
        let words = self
            .0
            .iter()
            .map(|label| format!("{} {} → {}", label.name, label.source_value, label.value));
        listed(&words.collect::<Vec<_>>())
    }
}
