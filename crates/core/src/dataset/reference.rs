//! What predictions are compared with, and how a prediction finds its reference.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Case, Dataset, LabelSource};
use ctseg_base::{Error, Result};
use ctseg_image::formats::{case_name, is_volume_name, read_label_map, read_label_runs};
use ctseg_image::labels::run_length_labels::LabelRuns;
use ctseg_image::space::LabelMap;

/// What stands for [`Dataset::ignore`] where all structures are one.
const UNKNOWN: u16 = u16::MAX;

/// What predictions are compared with: a folder of label maps, one label map, or a dataset.
pub enum Reference {
    Files(BTreeMap<String, PathBuf>),
    Dataset(Dataset),
    /// A dataset whose structures count as one, of value 1.
    Union(Dataset),
}

impl Reference {
    /// Recognises what `path` holds.
    pub fn open(path: &Path, data_root: Option<&Path>) -> Result<Self> {
        let files = label_maps(path)?;
        if !files.is_empty() {
            return Ok(Self::Files(files));
        }
        Dataset::open_in(path, data_root).map(Self::Dataset)
    }

    /// The label maps of a prediction (a folder or one file), each with the id of the case that it is of, or its own
    /// name where there is no such case.
    pub fn paired(&self, prediction: &Path) -> Result<Vec<(String, PathBuf)>> {
        let mut predictions = label_maps(prediction)?;
        if let (Self::Files(files), 1, true) = (self, predictions.len(), prediction.is_file())
            && let (1, Some((name, _))) = (files.len(), files.iter().next())
            && let Some((_, path)) = predictions.pop_first()
        {
            // Two single files are compared whatever their names.
            predictions.insert(name.clone(), path);
        }
        let of = |(name, path): (String, PathBuf)| (self.id_of(&name).unwrap_or(name), path);
        Ok(predictions.into_iter().map(of).collect())
    }

    /// The reference's own id for a prediction called `name`: that id itself, or the name of its image
    /// file where only one image has it.
    pub fn id_of(&self, name: &str) -> Option<String> {
        match self {
            Self::Files(files) => files.contains_key(name).then(|| name.to_owned()),
            Self::Dataset(dataset) | Self::Union(dataset) => {
                if dataset.cases.iter().any(|case| case.id == name) {
                    return Some(name.to_owned());
                }
                let mut same = dataset
                    .cases
                    .iter()
                    .filter(|case| case_name(&case.image).as_deref() == Some(name));
                match (same.next(), same.next()) {
                    (Some(case), None) => Some(case.id.clone()),
                    _ => None,
                }
            }
        }
    }

    pub fn load(&self, id: &str) -> Result<Option<LabelMap>> {
        match self {
            Self::Files(files) => files
                .get(id)
                .map(|path| Ok(read_label_map(path)?.1))
                .transpose(),
            Self::Dataset(dataset) => labels_of(dataset, id),
            Self::Union(dataset) => {
                let one = |mut labels: LabelMap| {
                    labels.data.mapv_inplace(|label| match label {
                        unknown if dataset.ignore == Some(unknown) => UNKNOWN,
                        known => u16::from(dataset.structures.iter().any(|s| s.value == known)),
                    });
                    labels
                };
                Ok(labels_of(dataset, id)?.map(one))
            }
        }
    }

    /// The reference's label map, where it is one file.
    pub fn path_of(&self, id: &str) -> Option<PathBuf> {
        match self {
            Self::Files(files) => files.get(id).cloned(),
            Self::Dataset(dataset) | Self::Union(dataset) => match &case_of(dataset, id)?.labels {
                LabelSource::Map(path) => Some(path.clone()),
                LabelSource::None | LabelSource::PerStructure(_) => None,
            },
        }
    }

    /// The image of the case, where it is known.
    pub fn image_of(&self, id: &str) -> Option<PathBuf> {
        match self {
            Self::Files(_) => None,
            Self::Dataset(dataset) | Self::Union(dataset) => {
                Some(case_of(dataset, id)?.image.clone())
            }
        }
    }

    /// As [`Self::load`], kept as runs; in little memory from the beginning where it is one file.
    pub fn load_runs(&self, id: &str) -> Result<Option<LabelRuns>> {
        match (self, self.path_of(id)) {
            (Self::Files(_) | Self::Dataset(_), Some(path)) => Ok(Some(read_label_runs(&path)?.1)),
            _ => Ok(self.load(id)?.map(|map| LabelRuns::from(&map))),
        }
    }

    /// Value of the voxels that are not compared.
    pub fn ignore(&self) -> Option<u16> {
        match self {
            Self::Files(_) => None,
            Self::Dataset(dataset) => dataset.ignore,
            Self::Union(dataset) => dataset.ignore.map(|_| UNKNOWN),
        }
    }

    /// Cases that can be compared with.
    pub fn cases(&self) -> Vec<String> {
        match self {
            Self::Files(files) => files.keys().cloned().collect(),
            // Training cases of a dataset are not expected to be predicted.
            Self::Dataset(dataset) | Self::Union(dataset) if !dataset.test.is_empty() => {
                dataset.test.clone()
            }
            Self::Dataset(dataset) | Self::Union(dataset) => {
                dataset.cases.iter().map(|case| case.id.clone()).collect()
            }
        }
    }
}

fn case_of<'a>(dataset: &'a Dataset, id: &str) -> Option<&'a Case> {
    dataset.cases.iter().find(|case| case.id == id)
}

fn labels_of(dataset: &Dataset, id: &str) -> Result<Option<LabelMap>> {
    case_of(dataset, id)
        .filter(|case| case.labels != LabelSource::None)
        .map(|case| dataset.load_labels(case))
        .transpose()
}

/// What predictions leave beside a label map, by the end of its name.
const BESIDE: [&str; 2] = ["_probabilities", "_entropy"];

/// Label maps by case name: of a folder, or the one file. Probabilities and entropies beside them are none.
pub fn label_maps(path: &Path) -> Result<BTreeMap<String, PathBuf>> {
    if path.is_file() && is_volume_name(path) {
        return Ok(case_name(path)
            .map(|name| (name, path.to_path_buf()))
            .into_iter()
            .collect());
    }
    if !path.is_dir() {
        if !path.exists() {
            return Err(Error::file(
                path,
                "does not exist; expected a label map or a folder of them",
            ));
        }
        return Ok(BTreeMap::new());
    }
    let entries = std::fs::read_dir(path).map_err(Error::io(path, "read the folder"))?;
    let all: BTreeMap<String, PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|file| file.is_file() && is_volume_name(file))
        .filter_map(|file| Some((case_name(&file)?, file)))
        .collect();
    let is_beside = |name: &String| {
        let mut cases = BESIDE.iter().filter_map(|end| name.strip_suffix(end));
        cases.any(|case| all.contains_key(case))
    };
    let beside: Vec<String> = all.keys().filter(|name| is_beside(name)).cloned().collect();
    let mut maps = all;
    maps.retain(|name, _| !beside.contains(name));
    Ok(maps)
}
