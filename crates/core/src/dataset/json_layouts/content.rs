//! What a `dataset.json` says.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use ctseg_base::{Error, Result};

/// The keys of both formats that matter here; others are ignored, as both programs do.
#[derive(Debug, Deserialize)]
pub(super) struct DatasetJson {
    pub name: Option<String>,
    pub description: Option<String>,
    pub licence: Option<String>,
    pub license: Option<String>,
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

/// Reads a `dataset.json`.
pub(super) fn read(json: &Path) -> Result<DatasetJson> {
    let text = std::fs::read_to_string(json).map_err(Error::io(json, "read"))?;
    serde_json::from_str(&text)
        .map_err(|error| Error::file(json, format!("not a dataset.json: {error}")))
}
