//! A case's image, reference and prediction: their files, and their voxels on one grid.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use ctseg_base::{Error, Result};
use ctseg_core::dataset::reference::{Depth, Reference, label_maps};
use ctseg_core::dataset::{Dataset, Reading, Structure};
use ctseg_core::outputs::sidecar::{Sidecar, read_sidecar};
use ctseg_core::recipe::output_maps::UNION;
use ctseg_evaluate::mask_ignored;
use ctseg_image::formats::{case_name, read_label_map, read_volume};
use ctseg_image::space::{LabelMap, Volume, VoxelBox};

/// Files that were compared, from `summary.json`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ComparedFiles {
    pub case: String,
    #[serde(default)]
    pub prediction: Option<PathBuf>,
    #[serde(default)]
    pub reference: Option<PathBuf>,
    #[serde(default)]
    pub image: Option<PathBuf>,
}

/// Known locations of the cases' files.
#[derive(Default)]
pub struct CaseFiles {
    /// Files recorded in the evaluation, by case.
    pub compared: BTreeMap<String, ComparedFiles>,
    /// Label maps by name.
    pub predictions: BTreeMap<String, PathBuf>,
    pub reference: Option<Reference>,
    /// Volumes by name.
    pub images: BTreeMap<String, PathBuf>,
    /// Base of relative paths, besides the working directory.
    pub folder: PathBuf,
    /// Grid tolerance and rescaling to Hounsfield units.
    pub reading: Reading,
}

/// A case in memory, all on one grid.
pub struct CaseImages {
    pub volume: Volume,
    pub reference: LabelMap,
    pub prediction: LabelMap,
    /// Stage 1's region of interest, in voxels of the file.
    pub roi: Option<VoxelBox>,
    /// Notes in the prediction's sidecar.
    pub notes: Vec<String>,
}

impl CaseFiles {
    /// NIfTI files in a folder (or one file), by name; empty if the folder does not exist.
    pub fn files_in(folder: &Path) -> BTreeMap<String, PathBuf> {
        let maps = label_maps(folder, Depth::Recursive)
            .unwrap_or_default()
            .into_iter();
        maps.map(|map| (map.name, map.path)).collect()
    }

    /// The label map of a case.
    pub fn prediction(&self, case: &str) -> Option<PathBuf> {
        let said = self.compared.get(case).and_then(|c| c.prediction.clone());
        if let Some(path) = said.and_then(|path| self.existing(&path)) {
            return Some(path);
        }
        if let Some(path) = self.predictions.get(case) {
            return Some(path.clone());
        }
        let reference = self.reference.as_ref()?;
        let mut named = self.predictions.iter();
        let named = named.find(|(name, _)| reference.id_of(name).as_deref() == Some(case));
        named.map(|(_, path)| path.clone())
    }

    /// The sidecar of a case's label map.
    pub fn sidecar(&self, case: &str) -> Option<Sidecar> {
        read_sidecar(&self.prediction(case)?)
    }

    fn image(&self, case: &str, sidecar: Option<&Sidecar>) -> Result<PathBuf> {
        let said = self.compared.get(case).and_then(|c| c.image.clone());
        let made_of = sidecar.map(|sidecar| sidecar.input.clone());
        let of_dataset = match &self.reference {
            Some(Reference::Dataset(dataset) | Reference::Union(dataset)) => {
                image_in(dataset, case)
            }
            _ => None,
        };
        let named = [case.to_owned(), format!("{case}_0000")];
        let by_name = named.iter().find_map(|name| self.images.get(name).cloned());
        // Files given by the user take precedence over recorded ones.
        let tried: Vec<PathBuf> = [by_name, said, made_of, of_dataset]
            .into_iter()
            .flatten()
            .collect();
        let found = tried.iter().find_map(|path| self.existing(path));
        found.ok_or_else(|| match tried.first() {
            Some(path) => Error::file(
                path,
                "the case's image no longer exists; give the image folder with --images",
            ),
            None => Error::invalid(format!(
                "{case}: image not found; give the image folder with --images"
            )),
        })
    }

    fn existing(&self, path: &Path) -> Option<PathBuf> {
        let places = [path.to_path_buf(), self.folder.join(path)];
        places.into_iter().find(|path| path.is_file())
    }

    fn reference(&self, case: &str, structures: &[Structure]) -> Result<LabelMap> {
        if let Some(labels) = self
            .reference
            .as_ref()
            .map(|r| r.load(case))
            .transpose()?
            .flatten()
        {
            return Ok(labels);
        }
        let said = self.compared.get(case).and_then(|c| c.reference.clone());
        let path = said.and_then(|path| self.existing(&path)).ok_or_else(|| {
            Error::invalid(format!(
                "{case}: reference not found; give the reference of the evaluation with --reference"
            ))
        })?;
        let mut labels = read_label_map(&path)?.1;
        if let [only] = structures
            && only.name == UNION
        {
            labels.data.mapv_inplace(|label| u16::from(label > 0));
        }
        Ok(labels)
    }

    /// Reads image, reference and prediction of a case.
    ///
    /// # Errors
    /// An unknown, missing or damaged file; files on different grids.
    pub fn load(&self, case: &str, structures: &[Structure]) -> Result<CaseImages> {
        let path = self.prediction(case).ok_or_else(|| {
            Error::invalid(format!(
                "{case}: label map not found in {}; give the folder of the label maps with --predictions",
                self.folder.display()
            ))
        })?;
        let sidecar = read_sidecar(&path);
        let reference = self.reference(case, structures)?;
        let image_path = self.image(case, sidecar.as_ref())?;
        let prediction = read_label_map(&path)?.1;
        let mut image = read_volume(&image_path)?;
        self.reading.rescale(&mut image);
        let volume = image.volume;
        let on_image = |what: &str, labels: LabelMap| {
            let placed = self
                .reading
                .grid_tolerance
                .placed(labels, &volume.grid, "image");
            placed
                .map(|(labels, _)| labels)
                .map_err(|problem| Error::file(&image_path, format!("{what} of {case}: {problem}")))
        };
        let mut prediction = on_image("label map", prediction)?;
        let mut reference = on_image("reference", reference)?;
        let ignore = self.reference.as_ref().and_then(Reference::ignore);
        mask_ignored(&mut prediction, &mut reference, ignore);
        Ok(CaseImages {
            volume,
            reference,
            prediction,
            roi: sidecar.as_ref().and_then(|sidecar| sidecar.cascade.roi),
            notes: sidecar.map(|sidecar| sidecar.notes).unwrap_or_default(),
        })
    }
}

fn image_in(dataset: &Dataset, id: &str) -> Option<PathBuf> {
    let own = |case: &&ctseg_core::dataset::Case| {
        case.id == id || case_name(&case.image).as_deref() == Some(id)
    };
    dataset
        .cases
        .iter()
        .find(own)
        .map(|case| case.image.clone())
}
