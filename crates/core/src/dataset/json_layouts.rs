//! Folders with a `dataset.json`: nnU-Net v2 raw and the Medical Segmentation Decathlon.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::discovered::Accept;
use super::discovered::Found;
use super::path_pattern::joined;
use super::path_pattern::{Pattern, visible_names};
use super::{Case, Dataset, LabelSource, Layout, Structure, structures};
use ctseg_base::{Error, Result};
use ctseg_image::formats::case_name;

/// The keys of both formats that matter here; others are ignored, as both programs do.
#[derive(Debug, Deserialize)]
struct DatasetJson {
    name: Option<String>,
    description: Option<String>,
    licence: Option<String>,
    license: Option<String>,
    labels: Option<Map<String, Value>>,
    // nnU-Net v2
    channel_names: Option<Map<String, Value>>,
    file_ending: Option<String>,
    dataset: Option<BTreeMap<String, ListedCase>>,
    // Decathlon
    modality: Option<Map<String, Value>>,
    training: Option<Vec<TrainingPair>>,
    test: Option<Vec<TestEntry>>,
}

#[derive(Debug, Deserialize)]
struct ListedCase {
    images: Vec<String>,
    label: Option<String>,
}

#[derive(Debug, Deserialize)]
struct TrainingPair {
    image: String,
    label: String,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum TestEntry {
    Image(String),
    Pair {
        image: String,
        label: Option<String>,
    },
}

/// Opens the folder that `json` (its `dataset.json`) describes.
pub(super) fn open(root: &Path, json: &Path, accept: Accept) -> Result<Dataset> {
    let text = std::fs::read_to_string(json).map_err(Error::io(json, "read"))?;
    let mut content: DatasetJson = serde_json::from_str(&text)
        .map_err(|error| Error::file(json, format!("not a dataset.json: {error}")))?;
    let (structures, ignore) = structures_of(json, content.labels.as_ref())?;
    let (layout, found, test) = if let Some(training) = content.training.take() {
        one_channel(json, "modality", content.modality.as_ref(), accept)?;
        let (found, test) = decathlon_cases(root, json, &content, training, structures)?;
        (Layout::Decathlon, found, test)
    } else if content.channel_names.is_some() || content.file_ending.is_some() {
        one_channel(
            json,
            "channel_names",
            content.channel_names.as_ref(),
            accept,
        )?;
        let (found, test) = nnunet_cases(root, json, &content, structures, accept)?;
        (Layout::NnUnet, found, test)
    } else {
        return Err(Error::file(
            json,
            "neither nnU-Net v2 (no channel_names) nor Medical Segmentation Decathlon (no training \
             list); add channel_names such as {\"0\": \"CT\"}, or use a descriptor (.toml)",
        ));
    };
    let mut dataset = super::discovered::of_folder(root, layout, found);
    if let Some(name) = content.name {
        dataset.name = name;
    }
    dataset.description = content.description;
    dataset.licence = content.licence.or(content.license);
    dataset.test = test;
    dataset.ignore = ignore;
    super::discovered::finished(dataset, json)
}

fn one_channel(
    json: &Path,
    key: &str,
    channels: Option<&Map<String, Value>>,
    accept: Accept,
) -> Result<()> {
    match channels {
        Some(channels) if channels.len() > 1 && accept == Accept::OneChannel => {
            let names: Vec<String> = channels.values().map(short).collect();
            Err(Error::file(
                json,
                format!(
                    "{key} lists {} channels ({}); only one channel (CT) is supported: split the \
                     dataset or describe the CT files in a descriptor (.toml)",
                    channels.len(),
                    names.join(", ")
                ),
            ))
        }
        _ => Ok(()),
    }
}

/// Both ways of writing labels: `{"liver": 1}` (nnU-Net v2) and `{"1": "liver"}` (Decathlon); and the value
/// of the label that nnU-Net calls `ignore`.
fn structures_of(
    json: &Path,
    labels: Option<&Map<String, Value>>,
) -> Result<(Vec<Structure>, Option<u16>)> {
    let labels = labels.filter(|labels| !labels.is_empty()).ok_or_else(|| {
        Error::file(
            json,
            "has no labels; expected e.g. {\"background\": 0, \"liver\": 1}",
        )
    })?;
    let (mut found, mut ignore) = (Vec::new(), None);
    for (key, value) in labels {
        let (name, number) = label_of(json, key, value)?;
        if name.eq_ignore_ascii_case("ignore") {
            if number == 0 {
                return Err(Error::file(
                    json,
                    "label 'ignore' has the value 0, which is background; give it a value of its own",
                ));
            }
            ignore = Some(number);
            continue;
        }
        if name == "background" && number != 0 {
            return Err(Error::file(
                json,
                format!("the background has the value {number}; expected 0"),
            ));
        }
        if number != 0 {
            found.push(Structure {
                value: number,
                name: name.to_owned(),
            });
        }
    }
    let structures = structures::sorted(found).map_err(|problem| Error::file(json, problem))?;
    Ok((structures, ignore))
}

/// Name and value of one label.
fn label_of<'a>(json: &Path, key: &'a str, value: &'a Value) -> Result<(&'a str, u16)> {
    let (name, number) = match value {
        Value::String(name) => (name.as_str(), key.parse().ok()),
        Value::Number(number) => (key, number.as_u64()),
        Value::Array(_) => {
            return Err(Error::file(
                json,
                format!(
                    "label '{key}' is a region ({}); regions are not supported yet: give every \
                     structure one value of its own",
                    short(value)
                ),
            ));
        }
        _ => (key, None),
    };
    let number = number.and_then(|n| u16::try_from(n).ok()).ok_or_else(|| {
        Error::file(
            json,
            format!(
                "label '{key}' has the value {}; expected \"name\": value with a whole number \
                 from 0 to 65535, or \"value\": name",
                short(value)
            ),
        )
    })?;
    Ok((name, number))
}

/// A JSON value for a one-line message.
fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 {
        text
    } else {
        text.chars().take(59).chain(['…']).collect()
    }
}

fn nnunet_cases(
    root: &Path,
    json: &Path,
    content: &DatasetJson,
    structures: Vec<Structure>,
    accept: Accept,
) -> Result<(Found, Vec<String>)> {
    let ending = content.file_ending.as_deref().unwrap_or(".nii.gz");
    if case_name(Path::new(&format!("case{ending}"))).as_deref() != Some("case") {
        return Err(Error::file(
            json,
            format!(
                "file_ending is '{ending}'; expected .nii.gz or .nii: convert the files to NIfTI"
            ),
        ));
    }
    let pattern = |text: String| Pattern::for_labels(&text).map_err(|p| Error::file(json, p));
    let found_in = |set: &str, structures: Vec<Structure>| -> Result<Found> {
        let images = format!("images{set}");
        if accept == Accept::OneChannel {
            refuse_more_channels(&root.join(&images), ending)?;
        }
        let images = pattern(format!("{images}/{{case}}_0000{ending}"))?;
        let labels = pattern(format!("labels{set}/{{case}}{ending}"))?;
        super::discovered::find_by_pattern(root, &images, Some(&labels), structures)
    };
    let mut found = match &content.dataset {
        Some(listed) => listed_cases(root, json, listed, structures, accept)?,
        None => found_in("Tr", structures)?,
    };
    let mut test = Vec::new();
    if root.join("imagesTs").is_dir() {
        let more = found_in("Ts", Vec::new())?;
        test.extend(more.cases.iter().map(|case| case.id.clone()));
        found.cases.extend(more.cases);
        found.unpaired.extend(more.unpaired);
    }
    Ok((found, test))
}

fn refuse_more_channels(folder: &Path, ending: &str) -> Result<()> {
    let second = format!("_0001{ending}");
    match visible_names(folder)?
        .into_iter()
        .find(|name| name.ends_with(&second))
    {
        Some(name) => Err(Error::file(
            folder.join(name),
            "a second channel (_0001); only one channel (CT, _0000) is supported: remove the other \
             channels or describe the CT files in a descriptor (.toml)",
        )),
        None => Ok(()),
    }
}

/// nnU-Net's optional `dataset` table: paths relative to the folder of `dataset.json`.
fn listed_cases(
    root: &Path,
    json: &Path,
    listed: &BTreeMap<String, ListedCase>,
    structures: Vec<Structure>,
    accept: Accept,
) -> Result<Found> {
    let mut cases = Vec::with_capacity(listed.len());
    for (id, files) in listed {
        let (Some(image), true) = (
            files.images.first(),
            files.images.len() == 1 || accept == Accept::AnyChannels,
        ) else {
            return Err(Error::file(
                json,
                format!(
                    "case '{id}' lists {} images; only one channel (CT) is supported",
                    files.images.len()
                ),
            ));
        };
        let labels = match &files.label {
            Some(label) => LabelSource::Map(joined(root, label)),
            None => LabelSource::None,
        };
        let image = joined(root, image);
        cases.push(Case {
            labels,
            ..super::discovered::unlabelled(id.clone(), image)
        });
    }
    Ok(Found {
        cases,
        structures,
        unpaired: Vec::new(),
    })
}

fn decathlon_cases(
    root: &Path,
    json: &Path,
    content: &DatasetJson,
    training: Vec<TrainingPair>,
    structures: Vec<Structure>,
) -> Result<(Found, Vec<String>)> {
    let training = training
        .into_iter()
        .map(|pair| (pair.image, Some(pair.label), false));
    let test = content.test.iter().flatten().map(|entry| match entry {
        TestEntry::Image(image) => (image.clone(), None, true),
        TestEntry::Pair { image, label } => (image.clone(), label.clone(), true),
    });
    let mut cases = Vec::new();
    let mut test_ids = Vec::new();
    for (image, label, is_test) in training.chain(test) {
        let image = joined(root, &image);
        let Some(id) = case_name(&image) else {
            return Err(Error::file(
                json,
                format!(
                    "lists the image {}; expected .nii.gz or .nii",
                    image.display()
                ),
            ));
        };
        // Some lists were made on macOS and hold its `._` litter.
        if id.starts_with("._") {
            continue;
        }
        if is_test {
            test_ids.push(id.clone());
        }
        let image = if image.exists() {
            image
        } else {
            with_channel_number(image, &id)
        };
        cases.push(Case {
            labels: decathlon_labels(root, &image, label.as_deref()),
            ..super::discovered::unlabelled(id, image)
        });
    }
    let unpaired = unlisted_labels(root, &cases);
    Ok((
        Found {
            cases,
            structures,
            unpaired,
        },
        test_ids,
    ))
}

/// The listed labels. Where a test case's labels are known after all, they lie where nnU-Net has them.
fn decathlon_labels(root: &Path, image: &Path, listed: Option<&str>) -> LabelSource {
    if let Some(label) = listed {
        return LabelSource::Map(joined(root, label));
    }
    let of_test = root
        .join("labelsTs")
        .join(image.file_name().unwrap_or_default());
    match of_test.is_file() {
        true => LabelSource::Map(of_test),
        false => LabelSource::None,
    }
}

/// Files in `labelsTr` that no training pair names.
fn unlisted_labels(root: &Path, cases: &[Case]) -> Vec<PathBuf> {
    let listed: HashSet<&Path> = cases
        .iter()
        .filter_map(|case| match &case.labels {
            LabelSource::Map(path) => Some(path.as_path()),
            _ => None,
        })
        .collect();
    let folder = root.join("labelsTr");
    let names = visible_names(&folder).unwrap_or_default();
    let paths = names.into_iter().map(|name| folder.join(name));
    paths
        .filter(|path| case_name(path).is_some() && !listed.contains(path.as_path()))
        .collect()
}

/// nnU-Net v1 lists `x.nii.gz` where `x_0000.nii.gz` lies; the listed path if that does not exist either.
fn with_channel_number(image: PathBuf, id: &str) -> PathBuf {
    let numbered = image
        .file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| {
            let ending = name.strip_prefix(id)?;
            Some(image.with_file_name(format!("{id}_0000{ending}")))
        });
    numbered.filter(|path| path.exists()).unwrap_or(image)
}
