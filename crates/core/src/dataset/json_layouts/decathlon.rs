//! The cases listed by the Medical Segmentation Decathlon.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::content::{DatasetJson, TestEntry, TrainingPair};
use crate::dataset::case_names::CaseNames;
use crate::dataset::discovered::{Found, unlabelled};
use crate::dataset::path_pattern::{joined, visible_names};
use crate::dataset::{Case, LabelSource, Structure};
use ctseg_base::text::os_text::{from_text, to_text};
use ctseg_base::{Error, Result};
use ctseg_image::formats::{case_name, is_volume_name};

/// The listed cases, and the ids of the test cases.
pub(super) fn decathlon_cases(
    root: &Path,
    json: &Path,
    content: &DatasetJson,
    training: Vec<TrainingPair>,
    structures: Vec<Structure>,
) -> Result<(Found, Vec<String>)> {
    let listed = listed(root, content, training);
    let images: Vec<PathBuf> = listed.iter().map(|one| one.image.clone()).collect();
    let mut names = CaseNames::of(&images);
    let mut cases = Vec::new();
    let mut test_ids = Vec::new();
    for ListedImage {
        image,
        label,
        is_test,
    } in listed
    {
        let Some(stem) = case_name(&image) else {
            return Err(Error::file(
                json,
                format!(
                    "lists the image {}; expected a .nii.gz or .nii file",
                    image.display()
                ),
            ));
        };
        // Some lists made on macOS contain its `._` files.
        if stem.starts_with("._") {
            continue;
        }
        let id = to_text(names.case(&image));
        if is_test {
            test_ids.push(id.clone());
        }
        let image = if image.exists() {
            image
        } else {
            with_channel_number(image, &stem)
        };
        cases.push(Case {
            // Folds are assigned by patient: with the stem they stay the same as when `_0000` was part of the id.
            patient: stem,
            labels: decathlon_labels(root, &image, label.as_deref()),
            ..unlabelled(id, image)
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

/// A case as it is listed.
struct ListedImage {
    image: PathBuf,
    label: Option<String>,
    is_test: bool,
}

fn listed(root: &Path, content: &DatasetJson, training: Vec<TrainingPair>) -> Vec<ListedImage> {
    let training = training
        .into_iter()
        .map(|pair| (pair.image, Some(pair.label), false));
    let test = content.test.iter().flatten().map(|entry| match entry {
        TestEntry::Image(image) => (image.clone(), None, true),
        TestEntry::Pair { image, label } => (image.clone(), label.clone(), true),
    });
    training
        .chain(test)
        .map(|(image, label, is_test)| ListedImage {
            image: joined(root, &image),
            label,
            is_test,
        })
        .collect()
}

/// The listed labels; for a test case without, those in nnU-Net's `labelsTs` if present.
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
    let paths = names.iter().map(|name| folder.join(from_text(name)));
    paths
        .filter(|path| is_volume_name(path) && !listed.contains(path.as_path()))
        .collect()
}

/// nnU-Net v1 lists `x.nii.gz` for the file `x_0000.nii.gz`; the listed path if that does not exist either.
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
