//! Folders with a `dataset.json`: nnU-Net v2 raw and the Medical Segmentation Decathlon.

mod content;
mod decathlon;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::discovered::{Accept, Found, find_by_pattern, finished, of_folder, unlabelled};
use super::path_pattern::{Pattern, joined, visible_names};
use super::{Case, Dataset, LabelSource, Layout, Structure, structures};
use ctseg_base::text::os_text::from_text;
use ctseg_base::{Error, Result};
use ctseg_image::formats::case_name;

use content::{DatasetJson, ListedCase, read};
use decathlon::decathlon_cases;

/// The CT images of a dataset.
pub(super) struct ListedImages {
    pub layout: Layout,
    /// None: every volume in nnU-Net's image folders.
    pub files: Option<Vec<PathBuf>>,
}

/// The CT images of the dataset that `json` describes, in nnU-Net's image `folders` or listed; none if it describes no
/// dataset. Labels are not read.
///
/// # Errors
/// A file that cannot be read; several channels, none of them named CT.
pub(super) fn images(
    root: &Path,
    json: &Path,
    folders: &[PathBuf],
) -> Result<Option<ListedImages>> {
    let mut content = read(json)?;
    if let Some(training) = content.take_training() {
        one_channel(
            json,
            "modality",
            content.modality.as_ref(),
            Accept::OneChannel,
        )?;
        let (found, _) = decathlon_cases(root, json, &content, training, Vec::new())?;
        let files = found.cases.into_iter().map(|case| case.image).collect();
        return Ok(Some(ListedImages {
            layout: Layout::Decathlon,
            files: Some(files),
        }));
    }
    if !content.is_nnunet() {
        return Ok(None);
    }
    let ct = ct_channel(json, content.channel_names.as_ref())?;
    let files = match (&content.dataset, ct) {
        (None, None) => None,
        (None, Some(ct)) => Some(files_of_channel(folders, ct)?),
        (Some(listed), ct) => {
            let ct = ct.unwrap_or(0);
            let images = listed.values().filter_map(|case| case.images.get(ct));
            Some(images.map(|image| joined(root, image)).collect())
        }
    };
    Ok(Some(ListedImages {
        layout: Layout::NnUnet,
        files,
    }))
}

/// The number of the CT channel; none if there is only one channel.
fn ct_channel(json: &Path, channels: Option<&Map<String, Value>>) -> Result<Option<usize>> {
    let Some(channels) = channels.filter(|channels| channels.len() > 1) else {
        return Ok(None);
    };
    let is_ct = |name: &Value| {
        name.as_str()
            .is_some_and(|name| name.eq_ignore_ascii_case("ct"))
    };
    let ct = channels.iter().find(|(_, name)| is_ct(name));
    match ct.and_then(|(number, _)| number.parse().ok()) {
        Some(number) => Ok(Some(number)),
        None => {
            one_channel(json, "channel_names", Some(channels), Accept::OneChannel)?;
            Ok(None)
        }
    }
}

/// The files of one channel in these folders.
fn files_of_channel(folders: &[PathBuf], channel: usize) -> Result<Vec<PathBuf>> {
    let number = format!("_{channel:04}");
    let mut files = Vec::new();
    for folder in folders {
        let names = visible_names(folder)?;
        let paths = names.iter().map(|name| folder.join(from_text(name)));
        files.extend(
            paths.filter(|path| case_name(path).is_some_and(|name| name.ends_with(&number))),
        );
    }
    Ok(files)
}

/// Opens the folder that `json` (its `dataset.json`) describes.
pub(super) fn open(root: &Path, json: &Path, accept: Accept) -> Result<Dataset> {
    let mut content = read(json)?;
    let (structures, ignore) = structures_of(json, content.labels.as_ref())?;
    let channels = content.channel_names.as_ref().or(content.modality.as_ref());
    let channel = channels.and_then(|names| names.get("0")?.as_str());
    let channel = channel.map(str::to_owned);
    let (layout, found, test) = if let Some(training) = content.take_training() {
        one_channel(json, "modality", content.modality.as_ref(), accept)?;
        let (found, test) = decathlon_cases(root, json, &content, training, structures)?;
        (Layout::Decathlon, found, test)
    } else if content.is_nnunet() {
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
    let mut dataset = of_folder(root, layout, found);
    let text = |value: Option<Value>| Some(value?.as_str()?.to_owned());
    if let Some(name) = text(content.name) {
        dataset.name = name;
    }
    dataset.description = text(content.description);
    dataset.licence = text(content.licence).or_else(|| text(content.license));
    dataset.test = test;
    dataset.ignore = ignore;
    dataset.channel = channel;
    finished(dataset, json)
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

/// Structures in both notations, `{"liver": 1}` (nnU-Net v2) and `{"1": "liver"}` (Decathlon), and the value
/// of nnU-Net's label `ignore`.
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
                    "label 'ignore' has the value 0, which is background; use another value",
                ));
            }
            ignore = Some(number);
            continue;
        }
        if name == "background" && number != 0 {
            return Err(Error::file(
                json,
                format!("label 'background' has the value {number}; expected 0"),
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
        Value::String(text) => match key.parse() {
            Ok(number) => (text.as_str(), Some(number)),
            Err(_) => (key, text.trim().parse().ok()),
        },
        Value::Number(number) => {
            let whole = |n: &f64| *n >= 0.0 && n.fract() == 0.0;
            (key, number.as_f64().filter(whole).map(|n| n as u64))
        }
        Value::Array(_) => {
            return Err(Error::file(
                json,
                format!(
                    "label '{key}' is a region ({}); regions are not supported yet: give each \
                     structure one value",
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

/// A JSON value, shortened for a one-line message.
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
    let ending = content.file_ending.as_deref().unwrap_or("nii.gz");
    let ending = &format!(".{}", ending.trim_start_matches('.'));
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
        find_by_pattern(root, &images, Some(&labels), structures)
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
            folder.join(from_text(&name)),
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
            ..unlabelled(id.clone(), image)
        });
    }
    Ok(Found {
        cases,
        structures,
        unpaired: Vec::new(),
    })
}
