//! `dataset.json` beside a model: its channels and output maps.

use std::path::Path;

use serde_json::{Map, Value};

use super::source::read_json;
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::Structure;

/// Meaning of a model's output maps.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Labels {
    /// In the order of the network's maps, without the background.
    pub structures: Vec<Structure>,
    /// Whether structures are nested regions, each with its own sigmoid.
    pub regions: bool,
    /// All label values above 0, as input of a cascade's second stage.
    pub foreground: Vec<u16>,
}

/// Reads the labels, after checking that the network takes one channel.
///
/// # Errors
/// Several channels, labels that are not whole numbers, regions without an order or with duplicate values.
pub(super) fn labels(path: &Path) -> Result<Labels> {
    let json = read_json(path)?;
    let channels = ["channel_names", "modality"]
        .iter()
        .find_map(|key| json.get(key)?.as_object());
    match channels {
        Some(channels) if channels.len() == 1 => {}
        Some(channels) => {
            let names = channels.values().filter_map(Value::as_str);
            return Err(Error::file(
                path,
                format!(
                    "the network takes {} channels ({}); ctseg supports models with one channel",
                    channels.len(),
                    names.collect::<Vec<_>>().join(", ")
                ),
            ));
        }
        None => {
            return Err(Error::file(
                path,
                "has no channel_names; expected the dataset.json of an nnU-Net 2 model",
            ));
        }
    }
    let named = json.get("labels").and_then(Value::as_object);
    let named = named.ok_or_else(|| {
        Error::file(
            path,
            "has no labels; expected the dataset.json of an nnU-Net 2 model",
        )
    })?;
    let order = json.get("regions_class_order").and_then(Value::as_array);
    of_labels(path, named, order)
}

fn of_labels(
    path: &Path,
    named: &Map<String, Value>,
    order: Option<&Vec<Value>>,
) -> Result<Labels> {
    let mut values: Vec<(&String, Vec<u16>)> = Vec::new();
    for (name, value) in named.iter().filter(|(name, _)| *name != "ignore") {
        let all = match value {
            Value::Array(all) => all.iter().map(|value| number(path, name, value)).collect(),
            one => number(path, name, one).map(|value| vec![value]),
        };
        values.push((name, all?));
    }
    let mut foreground: Vec<u16> = values.iter().flat_map(|(_, all)| all.clone()).collect();
    foreground.retain(|value| *value != 0);
    foreground.sort_unstable();
    foreground.dedup();
    // As in nnU-Net: if one label lists several values, all labels are regions.
    let regions = named
        .iter()
        .any(|(name, value)| name != "ignore" && value.as_array().is_some_and(|all| all.len() > 1));
    values.retain(|(_, all)| all.iter().any(|value| *value != 0));
    let structures = match regions {
        false => {
            let mut all: Vec<Structure> = values
                .iter()
                .filter_map(|(name, all)| Some(structure(*all.first()?, name)))
                .collect();
            all.sort_by_key(|structure| structure.value);
            all
        }
        true => of_regions(path, &values, order)?,
    };
    let mut seen: Vec<u16> = structures.iter().map(|structure| structure.value).collect();
    seen.sort_unstable();
    seen.dedup();
    if structures.is_empty() || seen.len() < structures.len() || seen.first() == Some(&0) {
        return Err(Error::file(
            path,
            format!(
                "its {} have the label values {seen:?}; expected a different value above 0 for each",
                counted(structures.len(), "structure")
            ),
        ));
    }
    Ok(Labels {
        structures,
        regions,
        foreground,
    })
}

/// Regions with the label values that `order` gives them.
fn of_regions(
    path: &Path,
    regions: &[(&String, Vec<u16>)],
    order: Option<&Vec<Value>>,
) -> Result<Vec<Structure>> {
    let order = order.ok_or_else(|| {
        Error::file(
            path,
            "has regions but no regions_class_order, which gives their label values",
        )
    })?;
    if order.len() != regions.len() {
        return Err(Error::file(
            path,
            format!(
                "regions_class_order has {} entries for {} regions",
                order.len(),
                regions.len()
            ),
        ));
    }
    let pairs = regions.iter().zip(order);
    pairs
        .map(|((name, _), value)| Ok(structure(number(path, name, value)?, name)))
        .collect()
}

fn structure(value: u16, name: &str) -> Structure {
    Structure {
        value,
        name: name.to_owned(),
    }
}

fn number(path: &Path, name: &str, value: &Value) -> Result<u16> {
    // Some files contain 1.0 or "1".
    let whole = value
        .as_u64()
        .or_else(|| {
            value
                .as_f64()
                .filter(|v| *v >= 0.0 && v.fract() == 0.0)
                .map(|v| v as u64)
        })
        .or_else(|| value.as_str()?.parse().ok());
    whole
        .and_then(|value| u16::try_from(value).ok())
        // The largest value marks voxels outside a volume's crop.
        .filter(|value| *value < u16::MAX)
        .ok_or_else(|| {
            Error::file(
                path,
                format!("label '{name}' is {value}; expected whole numbers from 0 to 65534"),
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(labels: &Value, order: &Value) -> Result<Labels> {
        let labels = labels.as_object().unwrap();
        of_labels(Path::new("dataset.json"), labels, order.as_array())
    }

    fn pairs(labels: &Labels) -> Vec<(u16, &str)> {
        let all = labels.structures.iter();
        all.map(|s| (s.value, s.name.as_str())).collect()
    }

    #[test]
    fn labels_and_regions_are_distinguished() {
        let plain = json!({"background": 0, "tumour": 2, "liver": 1, "ignore": 3});
        let found = of(&plain, &Value::Null).unwrap();
        assert_eq!(pairs(&found), [(1, "liver"), (2, "tumour")]);
        assert!(!found.regions);
        let regions = json!({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4});
        let found = of(&regions, &json!([1, 2, 3])).unwrap();
        assert_eq!(pairs(&found), [(1, "whole"), (2, "core"), (3, "enhancing")]);
        assert!(found.regions);
        assert_eq!(found.foreground, [1, 2, 3]);
    }

    #[test]
    fn invalid_labels_are_rejected() {
        let regions = json!({"background": 0, "whole": [1, 2], "core": 2});
        for (labels, order, expected) in [
            (&regions, Value::Null, "regions_class_order"),
            (&regions, json!([1]), "1 entries for 2"),
            (&regions, json!([1, 1]), "[1]"),
            (&json!({"background": 0}), Value::Null, "0 structures"),
            (&json!({"liver": "one"}), Value::Null, "liver"),
            (&json!({"liver": 70000}), Value::Null, "65534"),
            (&json!({"liver": -1.0}), Value::Null, "liver"),
        ] {
            let error = of(labels, &order).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
