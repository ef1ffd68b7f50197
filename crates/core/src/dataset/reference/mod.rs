//! What predictions are compared with, and how a prediction finds its reference.

mod label_maps;

pub use label_maps::{Depth, FoundMap, label_maps};

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::case_names::case_paths;
use super::layouts::has_known_layout;
use super::{Case, Dataset, LabelSource};
use ctseg_base::text::os_text::to_text;
use ctseg_base::{Error, Result};
use ctseg_image::formats::{case_name, read_label_map, read_label_runs};
use ctseg_image::labels::run_length_labels::LabelRuns;
use ctseg_image::space::{Grid, GridTolerance, LabelMap, Remark, Turn};

/// What stands for [`Dataset::ignore`] where all structures are one.
const UNKNOWN: u16 = u16::MAX;

/// What predictions are compared with: a folder of label maps, one label map, or a dataset.
pub enum Reference {
    /// Label maps, and how far from predictions they may lie.
    Files(Vec<FoundMap>, GridTolerance),
    Dataset(Dataset),
    /// A dataset whose structures count as one, of value 1.
    Union(Dataset),
}

impl Reference {
    /// Recognises what `path` holds: label maps, a dataset, or folders with label maps.
    pub fn open(path: &Path, data_root: Option<&Path>) -> Result<Self> {
        // A dataset's own folders hold images too.
        let depth = match path.is_dir() && has_known_layout(path)? {
            true => Depth::Folder,
            false => Depth::Below,
        };
        let mut files = label_maps(path, depth)?;
        files.retain(|map| map.path.exists());
        if !files.is_empty() {
            return Ok(Self::Files(files, GridTolerance::default()));
        }
        Dataset::open_in(path, data_root).map(Self::Dataset)
    }

    /// With another bound for how far references and predictions may lie apart.
    pub fn with_grid_tolerance(mut self, given: GridTolerance) -> Self {
        match &mut self {
            Self::Files(_, tolerance) => *tolerance = given,
            Self::Dataset(dataset) | Self::Union(dataset) => dataset.reading.grid_tolerance = given,
        }
        self
    }

    /// What turns a reference on the grid `own` to that of the prediction at `path`, and what there is to say about the
    /// two grids.
    ///
    /// # Errors
    /// They are not one.
    pub fn turn(
        &self,
        own: &Grid,
        (path, prediction): (&Path, &Grid),
    ) -> Result<(Turn, Option<Remark>)> {
        let tolerance = match self {
            Self::Files(_, tolerance) => *tolerance,
            Self::Dataset(dataset) | Self::Union(dataset) => dataset.reading.grid_tolerance,
        };
        let turned = tolerance.turn(prediction, own, "reference");
        let (turn, remark) = turned.map_err(|problem| Error::file(path, problem))?;
        Ok((turn.inverse(), remark))
    }

    /// [`Self::load`] as an array on the grid of the prediction at `path`; see [`Self::turn`].
    pub fn load_on(
        &self,
        id: &str,
        (path, prediction): (&Path, &Grid),
    ) -> Result<Option<(LabelMap, Option<Remark>)>> {
        let Some(labels) = self.load(id)? else {
            return Ok(None);
        };
        let (turn, remark) = self.turn(&labels.grid, (path, prediction))?;
        let labels = LabelMap {
            grid: *prediction,
            data: turn.array(labels.data),
        };
        Ok(Some((labels, remark)))
    }

    /// The label maps of a prediction (a folder or one file), each with the id of the case that it is of, or its own
    /// name where there is no such case. Those in folders below count if `predict` wrote them, or if there are no
    /// others. Two label maps may be of one case.
    pub fn paired(&self, prediction: &Path) -> Result<Vec<(String, PathBuf)>> {
        let mut predictions = label_maps(prediction, Depth::Below)?;
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
        let id = |map: FoundMap| {
            let own = [&map.name, &map.case];
            let known = own.into_iter().find_map(|name| ids.of(name));
            (known.map_or(map.name, str::to_owned), map.path)
        };
        let mut paired: Vec<(String, PathBuf)> = predictions.into_iter().map(id).collect();
        paired.sort();
        Ok(paired)
    }

    /// The reference's own id for a prediction called `name`: that id itself, or that of the only case whose image (or
    /// whose label map, where there are no images) has this name, or is called so by `predict`.
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
            Self::Files(files, _) => only(files, id).ok()?.cloned(),
            Self::Dataset(dataset) | Self::Union(dataset) => match &case_of(dataset, id)?.labels {
                LabelSource::Map(path) => Some(path.clone()),
                LabelSource::None | LabelSource::PerStructure(_) => None,
            },
        }
    }

    /// The image of the case, where it is known.
    pub fn image_of(&self, id: &str) -> Option<PathBuf> {
        match self {
            Self::Files(..) => None,
            Self::Dataset(dataset) | Self::Union(dataset) => {
                Some(case_of(dataset, id)?.image.clone())
            }
        }
    }

    /// As [`Self::load`], kept as runs; in little memory from the beginning where it is one file.
    pub fn load_runs(&self, id: &str) -> Result<Option<LabelRuns>> {
        match (self, self.path_of(id)) {
            (Self::Files(..) | Self::Dataset(_), Some(path)) => Ok(Some(read_label_runs(&path)?.1)),
            _ => Ok(self.load(id)?.map(|map| LabelRuns::from(&map))),
        }
    }

    /// Value of the voxels that are not compared.
    pub fn ignore(&self) -> Option<u16> {
        match self {
            Self::Files(..) => None,
            Self::Dataset(dataset) => dataset.ignore,
            Self::Union(dataset) => dataset.ignore.map(|_| UNKNOWN),
        }
    }

    /// Cases that can be compared with.
    pub fn cases(&self) -> Vec<String> {
        match self {
            Self::Files(files, _) => {
                let names: BTreeSet<&String> = files.iter().map(|map| &map.name).collect();
                names.into_iter().cloned().collect()
            }
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

/// The label map of this name.
///
/// # Errors
/// Several that only their endings tell apart.
fn only<'a>(files: &'a [FoundMap], name: &str) -> Result<Option<&'a PathBuf>> {
    let from = files.partition_point(|map| map.name.as_str() < name);
    let mut named = files[from..].iter().take_while(|map| map.name == name);
    match (named.next(), named.next()) {
        (Some(first), Some(second)) => Err(Error::file(
            &second.path,
            format!(
                "case '{name}' has another reference, {}; keep one of the two",
                first.path.display()
            ),
        )),
        (first, _) => Ok(first.map(|map| &map.path)),
    }
}

/// Ids of cases, and other names of which each is of one case alone.
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
