//! The content of a `dataset.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use ctseg_base::text::file::read_text;
use ctseg_base::{Error, Result};

/// The keys used from both formats; others are ignored, as both programs do. Text fields of another type are ignored.
#[derive(Debug, Deserialize)]
pub(super) struct DatasetJson {
    pub name: Option<Value>,
    pub description: Option<Value>,
    pub licence: Option<Value>,
    pub license: Option<Value>,
    pub labels: Option<Map<String, Value>>,
    // nnU-Net v2
    pub channel_names: Option<Map<String, Value>>,
    pub file_ending: Option<String>,
    pub dataset: Option<BTreeMap<String, ListedCase>>,
    // Decathlon
    pub modality: Option<Map<String, Value>>,
    pub training: Option<Vec<TrainingPair>>,
    pub test: Option<Vec<TestEntry>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ListedCase {
    pub images: Vec<String>,
    pub label: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct TrainingPair {
    pub image: String,
    pub label: String,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum TestEntry {
    Image(String),
    Pair {
        image: String,
        label: Option<String>,
    },
}

impl DatasetJson {
    /// Whether it is nnU-Net's, provided that it lists no training cases.
    pub fn is_nnunet(&self) -> bool {
        self.channel_names.is_some() || self.file_ending.is_some()
    }

    /// The Decathlon's list of training cases. nnU-Net ignores it, and some programs write an empty one.
    pub fn take_training(&mut self) -> Option<Vec<TrainingPair>> {
        let is_nnunet = self.is_nnunet();
        let training = self.training.take();
        training.filter(|list| !list.is_empty() || !is_nnunet)
    }
}

pub(super) fn read(json: &Path) -> Result<DatasetJson> {
    let text = read_text(json).map_err(Error::io(json, "read"))?;
    serde_json::from_str(&text)
        .map_err(|error| Error::file(json, format!("not a dataset.json: {error}")))
}
