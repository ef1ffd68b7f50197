//! Images and labels found in a folder, before they become cases.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::path_pattern::Pattern;
use super::{
    Case, Copies, Dataset, LabelSource, Layout, Reading, Structure, path_pattern, structures,
};
use ctseg_base::{Error, Result};
use ctseg_image::formats::endings_in_words;

/// Which images a caller accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accept {
    /// Images of several channels are an error.
    OneChannel,
    AnyChannels,
}

/// Cases found below a root.
pub(super) struct Found {
    pub cases: Vec<Case>,
    /// Empty if their names are not known yet.
    pub structures: Vec<Structure>,
    pub unpaired: Vec<PathBuf>,
}

/// A dataset named after its folder; the layouts fill in the rest.
pub(super) fn of_folder(root: &Path, layout: Layout, found: Found) -> Dataset {
    let full = fs::canonicalize(root).unwrap_or_else(|_| root.to_path_buf());
    let name = full.file_name().map_or_else(
        || "dataset".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    );
    Dataset {
        name,
        root: root.to_path_buf(),
        layout,
        licence: None,
        description: None,
        structures: found.structures,
        ignore: None,
        cases: found.cases,
        test: Vec::new(),
        unpaired_labels: found.unpaired,
        splits: None,
        copies: Copies::default(),
        channel: None,
        reading: Reading::default(),
    }
}

/// Final steps of every layout: sorts cases by id, checks the test cases, finds missing structures.
/// `source` is the file or folder named in errors.
pub(super) fn finished(mut dataset: Dataset, source: &Path) -> Result<Dataset> {
    if dataset.cases.is_empty() {
        return Err(Error::file(
            source,
            format!(
                "describes no cases: no image found under {}; expected {} files in the layout's image folder",
                dataset.root.display(),
                endings_in_words()
            ),
        ));
    }
    dataset
        .cases
        .sort_by(|a, b| (&a.id, &a.image).cmp(&(&b.id, &b.image)));
    dataset.test.sort();
    dataset.test.dedup();
    for id in &dataset.test {
        // A misspelt id would let a test case slip into training.
        if !dataset.cases.iter().any(|case| case.id == *id) {
            return Err(Error::file(
                source,
                format!(
                    "the test set names case '{id}', which is not among the {} cases found; \
                     correct the id or add the case",
                    dataset.cases.len()
                ),
            ));
        }
    }
    for index in 0..dataset.cases.len() {
        // Test cases often come without labels; for training cases a missing file is a problem.
        let absent =
            matches!(&dataset.cases[index].labels, LabelSource::Map(path) if !path.exists());
        if absent && dataset.is_test(&dataset.cases[index].id) {
            dataset.cases[index].labels = LabelSource::None;
        }
    }
    let labelled = dataset
        .cases
        .iter()
        .any(|case| case.labels != LabelSource::None);
    if dataset.structures.is_empty() && labelled {
        dataset.structures = structures::scan(&dataset.root, &dataset.cases)?;
        dataset
            .structures
            .retain(|structure| Some(structure.value) != dataset.ignore);
    }
    let named = |value: u16| dataset.structures.iter().find(|s| s.value == value);
    if let Some(taken) = dataset.ignore.and_then(named) {
        return Err(Error::file(
            source,
            format!(
                "the value {} is both the ignore label and structure '{}'; use another value for \
                 the ignore label",
                taken.value, taken.name
            ),
        ));
    }
    Ok(dataset)
}

/// Cases by a pattern for images and one for labels. With masks per structure, `named` selects the
/// structures; if it is empty, all are used, numbered from 1 in alphabetical order over all cases.
pub(super) fn find_by_pattern(
    root: &Path,
    images: &Pattern,
    labels: Option<&Pattern>,
    named: Vec<Structure>,
) -> Result<Found> {
    let mut images = images.cases(root)?;
    let Some(labels) = labels else {
        let cases = images
            .into_iter()
            .map(|(id, image)| unlabelled(id, image))
            .collect();
        return Ok(Found {
            cases,
            structures: named,
            unpaired: Vec::new(),
        });
    };
    if labels.per_structure() {
        return find_masks(root, images, labels, named);
    }
    // Labels may be next to the images and match their pattern: `a.nii.gz` and `a_seg.nii.gz`.
    let label_paths: HashSet<PathBuf> =
        images.iter().map(|(id, _)| labels.path(root, id)).collect();
    images.retain(|(id, image)| !label_paths.contains(image) || *image == labels.path(root, id));
    let ids: HashSet<&str> = images.iter().map(|(id, _)| id.as_str()).collect();
    let image_paths: HashSet<&PathBuf> = images.iter().map(|(_, image)| image).collect();
    let mut unpaired = path_pattern::unpaired(root, labels, &ids);
    unpaired.retain(|path| !image_paths.contains(path));
    let cases = images
        .iter()
        .map(|(id, image)| Case {
            labels: LabelSource::Map(labels.path(root, id)),
            ..unlabelled(id.clone(), image.clone())
        })
        .collect();
    Ok(Found {
        cases,
        structures: named,
        unpaired,
    })
}

/// [`find_by_pattern`] with a mask per structure.
fn find_masks(
    root: &Path,
    images: Vec<(String, PathBuf)>,
    labels: &Pattern,
    named: Vec<Structure>,
) -> Result<Found> {
    let masks = images
        .iter()
        .map(|(id, _)| labels.structures(root, id))
        .collect::<Result<Vec<_>>>()?;
    let structures = match named.is_empty() {
        true => numbered(root, masks.iter().flatten().map(|(name, _)| name.as_str()))?,
        false => named,
    };
    let value_of: BTreeMap<&str, u16> = structures
        .iter()
        .map(|s| (s.name.as_str(), s.value))
        .collect();
    let cases = images
        .into_iter()
        .zip(&masks)
        .map(|((id, image), masks)| {
            let mut files: Vec<(u16, PathBuf)> = masks
                .iter()
                .filter_map(|(name, path)| Some((*value_of.get(name.as_str())?, path.clone())))
                .collect();
            files.sort();
            let labels = if files.is_empty() {
                LabelSource::None
            } else {
                LabelSource::PerStructure(files)
            };
            Case {
                labels,
                ..unlabelled(id, image)
            }
        })
        .collect();
    Ok(Found {
        cases,
        structures,
        unpaired: Vec::new(),
    })
}

/// Structures of these names, numbered from 1 in alphabetical order.
fn numbered<'a>(root: &Path, names: impl Iterator<Item = &'a str>) -> Result<Vec<Structure>> {
    let names: BTreeSet<&str> = names.collect();
    if names.len() >= usize::from(u16::MAX) {
        return Err(Error::file(
            root,
            format!(
                "has {} different structures; at most {} are supported",
                names.len(),
                u16::MAX - 1
            ),
        ));
    }
    let numbered = (1..).zip(names).map(|(value, name)| Structure {
        value,
        name: name.to_owned(),
    });
    Ok(numbered.collect())
}

pub(super) fn unlabelled(id: String, image: PathBuf) -> Case {
    Case {
        patient: id.clone(),
        id,
        image,
        labels: LabelSource::None,
    }
}
