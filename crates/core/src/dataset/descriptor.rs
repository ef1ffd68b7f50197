//! Dataset descriptors in TOML.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::discovered::Found;
use super::path_pattern::Pattern;
use super::{Case, Copies, Dataset, LabelSource, Layout, Reading, Structure, structures};
use ctseg_base::text::file::read_text;
use ctseg_base::{Error, Result};

/// The keys of a descriptor; unknown keys are refused, to catch typos.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Descriptor {
    name: String,
    licence: Option<String>,
    description: Option<String>,
    /// Relative to the user's data root, or otherwise to the descriptor's folder.
    root: Option<String>,
    /// `images/*.nii.gz`: `*` is the case id.
    images: Option<String>,
    /// `labels/{case}.nii.gz`, or `{case}/segmentations/{structure}.nii.gz` for binary masks.
    labels: Option<String>,
    /// Name = value.
    #[serde(default)]
    structures: BTreeMap<String, u16>,
    /// The ignore label; not 0.
    ignore: Option<u16>,
    /// Ids of the test cases; never trained on.
    #[serde(default)]
    test: Vec<String>,
    /// The patient is the case id up to this text.
    patient_delimiter: Option<String>,
    /// Case = patient.
    #[serde(default)]
    patients: BTreeMap<String, String>,
    /// Cases one by one, instead of `images` and `labels`.
    #[serde(default)]
    cases: BTreeMap<String, ListedCase>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListedCase {
    image: String,
    labels: Option<String>,
    patient: Option<String>,
}

/// The descriptor at `path`, and the folder that its paths are relative to.
fn read(path: &Path, data_root: Option<&Path>) -> Result<(Descriptor, PathBuf)> {
    let text = read_text(path).map_err(Error::io(path, "read the descriptor"))?;
    let descriptor: Descriptor =
        toml::from_str(&text).map_err(|error| Error::file(path, toml_problem(&text, &error)))?;
    let base = match (data_root, path.parent()) {
        (Some(root), _) => root,
        (None, Some(folder)) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let root = match &descriptor.root {
        Some(root) => base.join(root),
        None => base.to_path_buf(),
    };
    if !root.is_dir() {
        return Err(Error::file(
            path,
            format!(
                "the dataset's root {} is not a folder; set the data root to the base folder \
                 of the descriptor's relative paths",
                root.display()
            ),
        ));
    }
    Ok((descriptor, root))
}

/// The images of the dataset that the descriptor at `path` describes; see [`Dataset::open_in`].
pub(super) fn images(path: &Path, data_root: Option<&Path>) -> Result<Vec<PathBuf>> {
    let (descriptor, root) = read(path, data_root)?;
    let found = find_cases(path, &root, &descriptor, Vec::new())?;
    Ok(found.cases.into_iter().map(|case| case.image).collect())
}

/// Opens the dataset that the descriptor at `path` describes; see [`Dataset::open_in`].
pub(super) fn open(path: &Path, data_root: Option<&Path>) -> Result<Dataset> {
    let (descriptor, root) = read(path, data_root)?;
    let in_descriptor = |problem: String| Error::file(path, problem);
    if descriptor.ignore == Some(0) {
        return Err(in_descriptor(
            "ignore is 0, which is background; use another value".into(),
        ));
    }
    let named = named_structures(&descriptor.structures).map_err(in_descriptor)?;
    let mut found = find_cases(path, &root, &descriptor, named)?;
    assign_patients(&mut found.cases, &descriptor).map_err(in_descriptor)?;
    let dataset = Dataset {
        name: descriptor.name,
        root,
        layout: Layout::Descriptor,
        licence: descriptor.licence,
        description: descriptor.description,
        structures: found.structures,
        ignore: descriptor.ignore,
        cases: found.cases,
        test: descriptor.test,
        unpaired_labels: found.unpaired,
        splits: None,
        copies: Copies::default(),
        channel: None,
        reading: Reading::default(),
    };
    super::discovered::finished(dataset, path)
}

/// One line: the position and the parser's message.
fn toml_problem(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().replace('\n', "; ");
    match error.span() {
        Some(span) => {
            let line = text[..span.start.min(text.len())].matches('\n').count() + 1;
            format!("not a dataset descriptor: line {line}: {message}")
        }
        None => format!("not a dataset descriptor: {message}"),
    }
}

fn named_structures(table: &BTreeMap<String, u16>) -> std::result::Result<Vec<Structure>, String> {
    let named = table
        .iter()
        .filter(|(name, value)| !(**value == 0 && name.eq_ignore_ascii_case("background")))
        .map(|(name, value)| Structure {
            value: *value,
            name: name.clone(),
        });
    structures::sorted(named.collect())
}

fn find_cases(
    path: &Path,
    root: &Path,
    descriptor: &Descriptor,
    named: Vec<Structure>,
) -> Result<Found> {
    let in_descriptor = |problem: String| Error::file(path, problem);
    match (&descriptor.images, descriptor.cases.is_empty()) {
        (Some(images), true) => {
            let images = Pattern::for_images(images).map_err(in_descriptor)?;
            let labels = match &descriptor.labels {
                Some(labels) => Some(Pattern::for_labels(labels).map_err(in_descriptor)?),
                None => None,
            };
            super::discovered::find_by_pattern(root, &images, labels.as_ref(), named)
        }
        (None, false) if descriptor.labels.is_none() => Ok(Found {
            cases: descriptor
                .cases
                .iter()
                .map(|(id, listed)| listed_case(root, id, listed))
                .collect(),
            structures: named,
            unpaired: Vec::new(),
        }),
        (None, true) => Err(Error::file(
            path,
            "names no cases; expected images = \"images/*.nii.gz\" or tables [cases.<id>]",
        )),
        _ => Err(Error::file(
            path,
            "has both patterns (images, labels) and tables [cases.<id>]; expected one of the two",
        )),
    }
}

fn listed_case(root: &Path, id: &str, listed: &ListedCase) -> Case {
    Case {
        id: id.to_owned(),
        patient: listed.patient.clone().unwrap_or_else(|| id.to_owned()),
        image: root.join(&listed.image),
        labels: match &listed.labels {
            Some(labels) => LabelSource::Map(root.join(labels)),
            None => LabelSource::None,
        },
    }
}

/// Patients from the table, then by the delimiter; otherwise every case is its own patient.
fn assign_patients(cases: &mut [Case], descriptor: &Descriptor) -> std::result::Result<(), String> {
    let delimiter = descriptor.patient_delimiter.as_deref();
    if delimiter == Some("") {
        return Err(
            "patient_delimiter is empty; set it to text such as \"-\", or remove the line".into(),
        );
    }
    let known = |id: &String| cases.iter().any(|case| case.id == *id);
    if let Some(id) = descriptor.patients.keys().find(|id| !known(id)) {
        return Err(format!(
            "[patients] names case '{id}', which is not among the {} cases; correct the id",
            cases.len()
        ));
    }
    for case in cases {
        let listed = descriptor
            .cases
            .get(&case.id)
            .and_then(|listed| listed.patient.as_ref());
        if let Some(patient) = descriptor.patients.get(&case.id).or(listed) {
            case.patient.clone_from(patient);
        } else if let Some((patient, _)) = delimiter.and_then(|by| case.id.split_once(by)) {
            case.patient = patient.to_owned();
        }
    }
    Ok(())
}
