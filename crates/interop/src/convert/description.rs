//! `dataset.json` of both layouts, and nnU-Net's `splits_final.json`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::journal::Record;
use super::labels::Labels;
use super::target::{Format, Target};
use ctseg_core::dataset::{Channels, Dataset, NamedSplit};

/// The only nnU-Net reader for non-orthogonal axes and NIfTI-2.
const NIBABEL: &str = "NibabelIO";

/// The content of `dataset.json`.
pub(super) struct Description<'a> {
    pub dataset: &'a Dataset,
    pub channels: &'a Channels,
    pub labels: &'a Labels,
    pub target: &'a Target,
    /// All existing cases, by name.
    pub records: &'a BTreeMap<String, Record>,
}

impl Description<'_> {
    /// `dataset.json`.
    pub fn json(&self) -> Value {
        match self.target.format {
            Format::NnUnet => self.nnunet(),
            Format::Msd => self.msd(),
        }
    }

    fn of(&self, test: bool) -> impl Iterator<Item = &Record> {
        self.records
            .values()
            .filter(move |record| record.test == test)
    }

    /// The format that nnU-Net 2.8.1 reads and writes (`generate_dataset_json.py`).
    fn nnunet(&self) -> Value {
        let mut labels = Map::new();
        labels.insert("background".to_owned(), json!(0));
        for label in &self.labels.0 {
            labels.insert(label.name.clone(), json!(label.value));
        }
        let mut all = Map::new();
        let mut set = |key: &str, value: Value| all.insert(key.to_owned(), value);
        set("channel_names", self.channel_names());
        set("labels", Value::Object(labels));
        set("numTraining", json!(self.of(false).count()));
        set("file_ending", json!(".nii.gz"));
        set("name", json!(self.target.name));
        let texts = [
            ("description", &self.dataset.description),
            ("reference", &self.channels.reference),
            ("licence", &self.dataset.licence),
            ("release", &self.channels.release),
        ];
        for (key, text) in texts {
            if let Some(text) = text {
                set(key, json!(text));
            }
        }
        if self.records.values().any(|record| record.needs_nibabel) {
            set("overwrite_image_reader_writer", json!(NIBABEL));
        }
        set(
            "converted_by",
            json!(concat!("ctseg ", env!("CARGO_PKG_VERSION"))),
        );
        Value::Object(all)
    }

    /// The format of the Decathlon's own datasets.
    fn msd(&self) -> Value {
        let mut labels = Map::new();
        labels.insert("0".to_owned(), json!("background"));
        for label in &self.labels.0 {
            labels.insert(label.value.to_string(), json!(label.name));
        }
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let image = |record: &Record, set: &str| format!("./images{set}/{}.nii.gz", record.case);
        let training = self.of(false).map(|record| {
            json!({"image": image(record, "Tr"), "label": format!("./labelsTr/{}.nii.gz", record.case)})
        });
        let training: Vec<Value> = training.collect();
        let test: Vec<String> = self.of(true).map(|record| image(record, "Ts")).collect();
        json!({
            "name": self.target.name,
            "description": text(&self.dataset.description),
            "reference": text(&self.channels.reference),
            "licence": text(&self.dataset.licence),
            "release": text(&self.channels.release),
            "tensorImageSize": if self.channels.names.len() > 1 { "4D" } else { "3D" },
            "modality": self.channel_names(),
            "labels": labels,
            "numTraining": training.len(),
            "numTest": test.len(),
            "training": training,
            "test": test,
        })
    }

    fn channel_names(&self) -> Value {
        let names = self.channels.names.iter().enumerate();
        let names = names.map(|(index, name)| (index.to_string(), json!(name)));
        Value::Object(names.collect())
    }

    /// The folds with the converted names of existing cases; folds with an empty set are omitted.
    pub fn splits(&self, splits: &[NamedSplit]) -> Vec<NamedSplit> {
        let names: BTreeMap<&str, &str> = self
            .of(false)
            .map(|record| (record.id.as_str(), record.case.as_str()))
            .collect();
        let named = |ids: &[String]| -> Vec<String> {
            let names = ids.iter().filter_map(|id| names.get(id.as_str()));
            names.map(|name| (*name).to_owned()).collect()
        };
        let splits = splits.iter().map(|split| NamedSplit {
            train: named(&split.train),
            validation: named(&split.validation),
        });
        splits
            .filter(|split| !split.train.is_empty() && !split.validation.is_empty())
            .collect()
    }
}
