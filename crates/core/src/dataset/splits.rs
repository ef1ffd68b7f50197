//! Training and validation cases as a dataset's own files name them.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::layouts::sets_of_meta;
use super::{Dataset, Layout};
use ctseg_base::{Error, Result};

/// One fold by the ids of its cases, as in nnU-Net's `splits_final.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedSplit {
    pub train: Vec<String>,
    #[serde(rename = "val")]
    pub validation: Vec<String>,
}

impl Dataset {
    /// The folds that files of the dataset name, with those of their cases that there are: `splits_final.json`
    /// (nnU-Net), or the validation cases of TotalSegmentator's `meta.csv`. None where there are no such files.
    ///
    /// # Errors
    /// A file that cannot be read as what it should be.
    pub fn named_splits(&self) -> Result<Vec<NamedSplit>> {
        let json = self.root.join("splits_final.json");
        let mut splits =
            if matches!(self.layout, Layout::NnUnet | Layout::Decathlon) && json.is_file() {
                read(&json)?
            } else if self.layout == Layout::TotalSegmentator {
                of_meta(&self.root.join("meta.csv"))?
            } else {
                Vec::new()
            };
        let trained: Vec<&str> = self
            .training_cases()
            .into_iter()
            .map(|index| self.cases[index].id.as_str())
            .collect();
        for split in &mut splits {
            for side in [&mut split.train, &mut split.validation] {
                side.retain(|id| trained.contains(&id.as_str()));
            }
        }
        splits.retain(|split| !split.train.is_empty() && !split.validation.is_empty());
        Ok(splits)
    }

    /// [`Dataset::split`] for each of `k` folds, by the ids of the cases.
    pub fn dealt_splits(&self, k: usize, seed: u64) -> Result<Vec<NamedSplit>> {
        let ids = |indices: &[usize]| {
            let ids = indices.iter().map(|index| self.cases[*index].id.clone());
            ids.collect()
        };
        (0..k)
            .map(|fold| {
                let split = self.split(k, fold, seed)?;
                Ok(NamedSplit {
                    train: ids(&split.train),
                    validation: ids(&split.validation),
                })
            })
            .collect()
    }
}

fn read(json: &Path) -> Result<Vec<NamedSplit>> {
    let text = std::fs::read_to_string(json).map_err(Error::io(json, "read"))?;
    serde_json::from_str(&text).map_err(|error| {
        Error::file(
            json,
            format!(
                "not nnU-Net's splits ({error}); expected [{{\"train\": [ids], \"val\": [ids]}}, …]: correct or remove it"
            ),
        )
    })
}

/// One fold, if the table names validation cases.
fn of_meta(table: &Path) -> Result<Vec<NamedSplit>> {
    if !table.is_file() {
        return Ok(Vec::new());
    }
    let sets = sets_of_meta(table)?;
    let of = |wanted: &str| {
        let ids = sets.iter().filter(|(_, set)| set == wanted);
        ids.map(|(id, _)| id.clone()).collect()
    };
    Ok(vec![NamedSplit {
        train: of("train"),
        validation: of("val"),
    }])
}
