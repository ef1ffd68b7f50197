//! References that predictions are compared with, and how the two are paired.

mod label_maps;

pub use label_maps::{Depth, LabelMapFile, label_maps};

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::case_names::case_paths;
use super::layouts::has_known_layout;
use super::{Case, Dataset, LabelSource};
use ctseg_base::text::os_text::to_text;
use ctseg_base::{Error, Result};
use ctseg_image::formats::{case_name, read_label_map, read_label_runs};
use ctseg_image::labels::run_length_labels::LabelRuns;
use ctseg_image::space::{Grid, GridMismatch, GridTolerance, LabelMap, Reorientation};

/// The ignore label of a union of structures.
const UNION_IGNORE: u16 = u16::MAX;

/// The reference of a comparison: a folder of label maps, one label map, or a dataset.
pub enum Reference {
    /// Label maps, and how far their grids may differ from those of predictions.
    Files(Vec<LabelMapFile>, GridTolerance),
    Dataset(Dataset),
    /// A dataset whose structures are merged into one of value 1.
    Union(Dataset),
}

impl Reference {
    /// Opens label maps, a dataset, or folders with label maps.
    pub fn open(path: &Path, data_root: Option<&Path>) -> Result<Self> {
        // A dataset's subfolders contain images too.
        let depth = match path.is_dir() && has_known_layout(path)? {
            true => Depth::Folder,
            false => Depth::Recursive,
        };
        let mut files = label_maps(path, depth)?;
        files.retain(|map| map.path.exists());
        if !files.is_empty() {
            return Ok(Self::Files(files, GridTolerance::default()));
        }
        Dataset::open_in(path, data_root).map(Self::Dataset)
    }

    /// Sets how far the grids of references and predictions may differ.
    pub fn with_grid_tolerance(mut self, new: GridTolerance) -> Self {
        match &mut self {
            Self::Files(_, tolerance) => *tolerance = new,
            Self::Dataset(dataset) | Self::Union(dataset) => dataset.reading.grid_tolerance = new,
        }
        self
    }

    /// How to reorient a reference on the grid `own` to the grid of the `prediction` at `path`, with a remark if the two
    /// differ slightly.
    ///
    /// # Errors
    /// The grids differ by more than the tolerance.
    pub fn reorientation(
        &self,
        own: &Grid,
        path: &Path,
        prediction: &Grid,
    ) -> Result<(Reorientation, Option<GridMismatch>)> {
        let tolerance = match self {
            Self::Files(_, tolerance) => *tolerance,
            Self::Dataset(dataset) | Self::Union(dataset) => dataset.reading.grid_tolerance,
        };
        let turned = tolerance.reorientation(prediction, own, "reference");
        let (reorientation, remark) = turned.map_err(|problem| Error::file(path, problem))?;
        Ok((reorientation.inverse(), remark))
    }

    /// [`Self::load`] on the grid of the `prediction` at `path`; see [`Self::reorientation`].
    pub fn load_on(
        &self,
        id: &str,
        path: &Path,
        prediction: &Grid,
    ) -> Result<Option<(LabelMap, Option<GridMismatch>)>> {
        let Some(labels) = self.load(id)? else {
            return Ok(None);
        };
        let (reorientation, remark) = self.reorientation(&labels.grid, path, prediction)?;
        let labels = LabelMap {
            grid: *prediction,
            data: reorientation.apply(labels.data),
        };
        Ok(Some((labels, remark)))
    }

    /// The label maps of a prediction (a folder or one file), each with its case's id, or its own
    /// name if there is no such case. Those in subfolders count if `predict` wrote them, or if there are no
    /// others. Two label maps may have the same case.
    pub fn paired(&self, prediction: &Path) -> Result<Vec<(String, PathBuf)>> {
        let mut predictions = label_maps(prediction, Depth::Recursive)?;
        if predictions.iter().any(|map| !map.nested) {
            predictions.retain(|map| !map.nested || map.predicted);
        }
        // Two single files are compared whatever their names.
        if let (Self::Files(files, _), [map], true) =
            (self, &mut predictions[..], prediction.is_file())
            && let [only] = &files[..]
        {
            map.name.clone_from(&only.name);
        }
        let ids = self.ids();
        let id = |map: LabelMapFile| {
            let own = [&map.name, &map.case];
            let known = own.into_iter().find_map(|name| ids.of(name));
            (known.map_or(map.name, str::to_owned), map.path)
        };
        let mut paired: Vec<(String, PathBuf)> = predictions.into_iter().map(id).collect();
        paired.sort();
        Ok(paired)
    }

    /// The reference's id for a prediction named `name`: the id itself, or that of the only case whose image (or
    /// label map, without images) has this file name or case name in `predict`.
    pub fn id_of(&self, name: &str) -> Option<String> {
        self.ids().of(name).map(str::to_owned)
    }

    fn ids(&self) -> Ids {
        match self {
            Self::Files(files, _) => Ids::new(
                files.iter().map(|map| map.name.clone()),
                files.iter().map(|map| vec![map.case.clone()]),
            ),
            Self::Dataset(dataset) | Self::Union(dataset) => {
                let images: Vec<PathBuf> = dataset.cases.iter().map(|c| c.image.clone()).collect();
                let named = case_paths(&images).into_iter().map(to_text);
                let files = images.iter().map(|image| case_name(image));
                Ids::new(
                    dataset.cases.iter().map(|case| case.id.clone()),
                    files
                        .zip(named)
                        .map(|(file, named)| file.into_iter().chain([named]).collect()),
                )
            }
        }
    }

    pub fn load(&self, id: &str) -> Result<Option<LabelMap>> {
        match self {
            Self::Files(files, _) => match only(files, id)? {
                Some(path) => Ok(Some(read_label_map(path)?.1)),
                None => Ok(None),
            },
            Self::Dataset(dataset) => labels_of(dataset, id),
            Self::Union(dataset) => {
                let one = |mut labels: LabelMap| {
                    labels.data.mapv_inplace(|label| match label {
                        ignored if dataset.ignore == Some(ignored) => UNION_IGNORE,
                        label => u16::from(dataset.structures.iter().any(|s| s.value == label)),
                    });
                    labels
                };
                Ok(labels_of(dataset, id)?.map(one))
            }
        }
    }

    /// The path of the case's label map, if it is one file.
    pub fn path_of(&self, id: &str) -> Option<PathBuf> {
        match self {
            Self::Files(files, _) => only(files, id).ok()?.cloned(),
            Self::Dataset(dataset) | Self::Union(dataset) => match &case_of(dataset, id)?.labels {
                LabelSource::Map(path) => Some(path.clone()),
                LabelSource::None | LabelSource::PerStructure(_) => None,
            },
        }
    }

    /// The case's image, if known.
    pub fn image_of(&self, id: &str) -> Option<PathBuf> {
        match self {
            Self::Files(..) => None,
            Self::Dataset(dataset) | Self::Union(dataset) => {
                Some(case_of(dataset, id)?.image.clone())
            }
        }
    }

    /// As [`Self::load`], run-length encoded; a single file is never decoded whole.
    pub fn load_runs(&self, id: &str) -> Result<Option<LabelRuns>> {
        match (self, self.path_of(id)) {
            (Self::Files(..) | Self::Dataset(_), Some(path)) => Ok(Some(read_label_runs(&path)?.1)),
            _ => Ok(self.load(id)?.map(|map| LabelRuns::from(&map))),
        }
    }

    /// The ignore label; its voxels are not compared.
    pub fn ignore(&self) -> Option<u16> {
        match self {
            Self::Files(..) => None,
            Self::Dataset(dataset) => dataset.ignore,
            Self::Union(dataset) => dataset.ignore.map(|_| UNION_IGNORE),
        }
    }

    /// Ids of the cases that predictions are expected for.
    pub fn cases(&self) -> Vec<String> {
        match self {
            Self::Files(files, _) => {
                let names: BTreeSet<&String> = files.iter().map(|map| &map.name).collect();
                names.into_iter().cloned().collect()
            }
            // Predictions of a dataset's training cases are not expected.
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

/// The label map with this name.
///
/// # Errors
/// Several that differ only in their extension.
fn only<'a>(files: &'a [LabelMapFile], name: &str) -> Result<Option<&'a PathBuf>> {
    let from = files.partition_point(|map| map.name.as_str() < name);
    let mut named = files[from..].iter().take_while(|map| map.name == name);
    match (named.next(), named.next()) {
        (Some(first), Some(second)) => Err(Error::file(
            &second.path,
            format!(
                "case '{name}' has a second reference, {}; remove one of the two",
                first.path.display()
            ),
        )),
        (first, _) => Ok(first.map(|map| &map.path)),
    }
}

/// Case ids, and other names that identify exactly one case.
struct Ids {
    ids: BTreeSet<String>,
    names: BTreeMap<String, String>,
}

impl Ids {
    fn new(
        ids: impl Iterator<Item = String> + Clone,
        names: impl Iterator<Item = Vec<String>>,
    ) -> Self {
        let mut owners: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (id, names) in ids.clone().zip(names) {
            for name in names {
                owners.entry(name).or_default().insert(id.clone());
            }
        }
        let alone = owners.into_iter().filter(|(_, owners)| owners.len() == 1);
        Self {
            ids: ids.collect(),
            names: alone
                .filter_map(|(name, owners)| Some((name, owners.into_iter().next()?)))
                .collect(),
        }
    }

    fn of(&self, name: &str) -> Option<&str> {
        let id = self.ids.get(name).or_else(|| self.names.get(name));
        id.map(String::as_str)
    }
}
