//! `<case>.json`, which lies beside each label map and says how it was made.
//!
//! Over 400 lines: what is written, how it is read again and by what it is known share one format.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::links::refuse_links_out;
use super::overlapping_masks::OverlappingMasks;
use super::{Outputs, remove_left_over};
use crate::inference::cascade::CascadeReport;
use crate::model::identity::ModelUsed;
use ctseg_base::atomic_file::{parent_of, write_bytes_atomically};
use ctseg_base::hash::file_sha256;
use ctseg_base::limits::threads::peak_memory_mb;
use ctseg_base::process::owner::Worker;
use ctseg_base::text::file::read_text_at_most;
use ctseg_base::text::os_text;
use ctseg_base::{Error, Result};
use ctseg_image::formats::{VolumeImage, case_file};
use ctseg_image::preprocess::rescale_hu::RescaleHu;
use ctseg_image::space::LabelMap;
use ctseg_image::statistics::structures::{StructureStatistics, structure_statistics};
use ctseg_image::statistics::totalsegmentator::TableOptions;

/// Which label maps are alike: those made by builds of the same version count as done and are kept. Raise it only in a
/// change after which the same model makes other label maps of the same volume.
pub const INFERENCE_VERSION: u32 = 1;

/// What is known of a label map.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sidecar {
    /// Those of older versions do not say it.
    #[serde(default)]
    pub state: State,
    #[serde(with = "os_text::path")]
    pub input: PathBuf,
    pub input_sha256: String,
    /// The first model.
    #[serde(with = "os_text::path")]
    pub model: PathBuf,
    /// Of the model, or of all that were averaged.
    pub model_sha256: String,
    /// Where several models were averaged: each of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ensemble: Vec<ModelUsed>,
    /// [`INFERENCE_VERSION`] of the build that made it; sidecars from before there was such a number are of version 1.
    #[serde(default = "first_inference_version")]
    pub inference_version: u32,
    /// For people to read; decides nothing.
    pub ctseg_version: String,
    pub device: String,
    /// Voxels along the file's axes.
    pub shape: [usize; 3],
    pub spacing_mm: [f64; 3],
    pub orientation: String,
    /// Warnings about the file and deviations from the normal way.
    pub notes: Vec<String>,
    pub cascade: CascadeReport,
    /// Whether the masks are of each structure on its own, so that voxels may be of several; figures are the masks'.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overlapping: bool,
    /// Whether only chosen structures were wanted (`structures`), and a model of several parts ran no more for them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_chosen: bool,
    /// How the figures of `<case>_statistics.json` were taken, if it was wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics_json: Option<TableOptions>,
    /// How the volume's values were brought to Hounsfield units, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescale_hu: Option<RescaleHu>,
    /// Volume of each structure by name.
    pub volumes_ml: BTreeMap<String, f64>,
    /// What each structure measures, by name.
    #[serde(default)]
    pub statistics: BTreeMap<String, StructureStatistics>,
    /// The case's files, relative to the sidecar's folder.
    #[serde(default, with = "os_text::paths")]
    pub files: Vec<PathBuf>,
    /// What those files hold; nothing in sidecars of older versions, whose cases are done again.
    #[serde(default, with = "os_text::path_keys")]
    pub written: BTreeMap<PathBuf, Written>,
    /// Label value of each structure by name.
    pub structures: BTreeMap<String, u16>,
    /// Label values in the order of the maps of the probabilities, where these were saved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probability_labels: Vec<u16>,
    pub seconds: f64,
    /// Largest resident memory of the process so far.
    pub peak_memory_mb: Option<f64>,
}

/// How far a case is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The first file is about to be written, and not all are.
    Writing,
    #[default]
    Done,
}

/// A sidecar from before the first file of a case is written until all are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Begun {
    pub state: State,
    #[serde(with = "os_text::path")]
    pub input: PathBuf,
    pub ctseg_version: String,
    /// Which process writes, or wrote when it was killed.
    pub worker: Option<Worker>,
    /// All files that may be there by now, relative to the sidecar's folder.
    #[serde(with = "os_text::paths")]
    pub files: Vec<PathBuf>,
}

/// Sidecars are smaller; a larger file is something else and is not read.
pub const MOST_BYTES: u64 = 64 << 20;

/// What lies where a sidecar would.
pub enum Found {
    Nothing,
    Begun(Begun),
    Done(Box<Sidecar>),
    /// No sidecar of ctseg's.
    Foreign,
}

/// What lies beside the label map that is or would be `output`.
///
/// # Errors
/// It cannot be read.
pub fn found_at(output: &Path) -> Result<Found> {
    let path = sidecar_path(output);
    let text = match read_text_at_most(&path, MOST_BYTES) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) if error.kind() == ErrorKind::InvalidData => return Ok(Found::Foreign),
        Err(error) => return Err(Error::io(&path, "read")(error)),
    };
    if let Ok(begun) = serde_json::from_str::<Begun>(&text)
        && begun.state == State::Writing
    {
        return Ok(Found::Begun(begun));
    }
    let made = serde_json::from_str(&text);
    Ok(made.map_or(Found::Foreign, |made| Found::Done(Box::new(made))))
}

fn first_inference_version() -> u32 {
    1
}

/// A file's content, to know it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    pub bytes: u64,
    pub sha256: String,
}

impl Written {
    /// What lies at `path`.
    pub fn at(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(Error::io(path, "read"))?;
        Ok(Self {
            bytes: metadata.len(),
            sha256: file_sha256(path)?,
        })
    }

    /// Whether it still lies at `path`, to the last byte.
    pub fn is_at(&self, path: &Path) -> bool {
        let length = std::fs::metadata(path).map(|metadata| metadata.len());
        length.is_ok_and(|bytes| bytes == self.bytes)
            && file_sha256(path).is_ok_and(|sha256| sha256 == self.sha256)
    }
}

/// The sidecar of a label map.
pub fn sidecar_path(output: &Path) -> PathBuf {
    case_file(output, ".json")
}

/// The sidecar beside `label_map`, if there is one that can be read.
pub fn read_sidecar(label_map: &Path) -> Option<Sidecar> {
    match found_at(label_map) {
        Ok(Found::Done(made)) => Some(*made),
        _ => None,
    }
}

/// Whether the case whose label map is `output` is of this input and these models ([`Sidecar::is_of`]), and all of its
/// files are whole.
pub fn is_made_of(
    output: &Path,
    input_sha256: &str,
    rescale_hu: Option<RescaleHu>,
    model_sha256: &str,
) -> bool {
    read_sidecar(output).is_some_and(|made| {
        let mut files = made.files.iter();
        made.is_of(input_sha256, rescale_hu, model_sha256)
            && !made.files.is_empty()
            && files.all(|file| made.is_whole(output, file))
    })
}

impl Sidecar {
    /// Whether the case was made of this input with its values brought to Hounsfield units in this way, by models with
    /// this hash and by a build of the same [`INFERENCE_VERSION`].
    pub fn is_of(
        &self,
        input_sha256: &str,
        rescale_hu: Option<RescaleHu>,
        model_sha256: &str,
    ) -> bool {
        self.input_sha256 == input_sha256
            && self.rescale_hu == rescale_hu
            && self.model_sha256 == model_sha256
            && self.inference_version == INFERENCE_VERSION
    }

    /// Whether one of the case's files is as it was written. What happened to it since (a copy that was cut off, a
    /// change by another program) its length and hash tell: label maps are a hundredth of the volumes that are
    /// hashed anyway.
    pub fn is_whole(&self, output: &Path, file: &Path) -> bool {
        let written = self.written.get(file);
        written.is_some_and(|written| written.is_at(&parent_of(output).join(file)))
    }
}

impl Outputs {
    /// Whether the case was made with what is wanted.
    pub fn are_of(&self, made: &Sidecar, structures: &BTreeMap<String, u16>) -> bool {
        made.structures == *structures
            && made.only_chosen == self.structures.is_some()
            && made.statistics_json == self.statistics_json
            && made.overlapping == self.overlap
    }
}

fn write_json(path: &Path, content: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(content)
        .map_err(|error| Error::file(path, format!("cannot describe the case: {error}")))?;
    write_bytes_atomically(path, text.as_bytes())
}

/// Probabilities beside a label map.
#[derive(Debug, Clone)]
pub struct SavedProbabilities {
    /// In the folder of the label map.
    pub file: PathBuf,
    /// Label values in the order of its maps.
    pub labels: Vec<u16>,
}

/// What a label map is made of and with.
pub struct Making<'a> {
    pub input: &'a Path,
    pub input_sha256: &'a str,
    pub image: &'a VolumeImage,
    pub models: &'a [ModelUsed],
    pub model_sha256: &'a str,
    pub device: String,
    /// Label value of each structure by name; of those that are wanted.
    pub structures: &'a BTreeMap<String, u16>,
    pub outputs: &'a Outputs,
    /// What the image's values were brought to Hounsfield units by, if that was asked for.
    pub rescale_hu: Option<RescaleHu>,
    /// The case's probabilities; their file is there already.
    pub probabilities: Option<SavedProbabilities>,
    pub started: Instant,
}

impl Making<'_> {
    /// Says in the sidecar that `files` are about to be written, relative to its folder, and removes what an earlier
    /// prediction of the case has left beside them.
    ///
    /// # Errors
    /// The sidecar cannot be written; a link leads from the folder of masks to another place.
    pub fn begin(&self, output: &Path, files: Vec<PathBuf>) -> Result<()> {
        refuse_links_out(output, &files)?;
        let left = match found_at(output)? {
            Found::Nothing | Found::Foreign => Vec::new(),
            Found::Begun(begun) => begun.files,
            Found::Done(made) => {
                let own = made.files.iter().filter(|file| made.is_whole(output, file));
                own.cloned().collect() // what was changed since is somebody's
            }
        };
        let left: Vec<PathBuf> = left
            .into_iter()
            .filter(|file| !files.contains(file))
            .collect();
        let begun = Begun {
            state: State::Writing,
            input: self.input.to_path_buf(),
            ctseg_version: env!("CARGO_PKG_VERSION").to_owned(),
            worker: Some(Worker::own()),
            files: files.into_iter().chain(left.iter().cloned()).collect(),
        };
        write_json(&sidecar_path(output), &begun)?;
        remove_left_over(output, &left);
        Ok(())
    }

    /// Writes the case's files on its input's grid, and its sidecar after them; see [`Making::begin`].
    pub fn written(
        &self,
        output: &Path,
        (mut labels, mut masks): (LabelMap, Option<OverlappingMasks>),
        mut cascade: CascadeReport,
    ) -> Result<Sidecar> {
        let writing = Instant::now();
        let (image, structures) = (self.image, self.structures);
        self.outputs.select(&mut labels, structures);
        let labels = &labels;
        let statistics = match &mut masks {
            Some(masks) => self.statistics_of_masks(masks),
            None => self.statistics(labels),
        };
        if let Some(masks) = &mut masks {
            masks.sort();
        }
        let measured = writing.elapsed().as_secs_f64();
        let files = self.outputs.write(
            output,
            image,
            (labels, masks.as_ref()),
            structures,
            &statistics,
        )?;
        let saved = self.probabilities.as_ref().map(|saved| saved.file.clone());
        let files = files.into_iter().chain(saved);
        let written = files.map(|file| {
            let written = Written::at(&parent_of(output).join(&file))?;
            Ok((file, written))
        });
        let written = written.collect::<Result<Vec<_>>>()?;
        let seconds = writing.elapsed().as_secs_f64() - measured;
        cascade.seconds.insert("statistics".to_owned(), measured);
        cascade.seconds.insert("write".to_owned(), seconds);
        let sidecar = self.sidecar(labels, statistics, written, cascade);
        write_json(&sidecar_path(output), &sidecar)?;
        Ok(sidecar)
    }

    fn statistics(&self, labels: &LabelMap) -> BTreeMap<String, StructureStatistics> {
        let values: Vec<u16> = self.structures.values().copied().collect();
        let found = structure_statistics(&values, labels, &self.image.volume);
        self.structures.keys().cloned().zip(found).collect()
    }

    fn statistics_of_masks(
        &self,
        masks: &mut OverlappingMasks,
    ) -> BTreeMap<String, StructureStatistics> {
        let volume = &self.image.volume;
        let structures = self.structures.iter();
        structures
            .filter_map(|(name, label)| Some((name.clone(), masks.statistics(*label, volume)?)))
            .collect()
    }

    fn sidecar(
        &self,
        labels: &LabelMap,
        statistics: BTreeMap<String, StructureStatistics>,
        written: Vec<(PathBuf, Written)>,
        cascade: CascadeReport,
    ) -> Sidecar {
        let grid = self.image.volume.grid;
        let saved = self.probabilities.as_ref();
        Sidecar {
            state: State::Done,
            input: self.input.to_path_buf(),
            input_sha256: self.input_sha256.to_owned(),
            model: self
                .models
                .first()
                .map(|m| m.model.clone())
                .unwrap_or_default(),
            model_sha256: self.model_sha256.to_owned(),
            ensemble: if self.models.len() > 1 {
                self.models.to_vec()
            } else {
                Vec::new()
            },
            inference_version: INFERENCE_VERSION,
            ctseg_version: env!("CARGO_PKG_VERSION").to_owned(),
            device: self.device.clone(),
            shape: grid.shape,
            spacing_mm: grid.spacing_mm(),
            orientation: grid.orientation().to_string(),
            notes: self.notes(labels, &cascade),
            cascade,
            overlapping: self.outputs.overlap,
            only_chosen: self.outputs.structures.is_some(),
            statistics_json: self.outputs.statistics_json,
            rescale_hu: self.rescale_hu,
            volumes_ml: statistics
                .iter()
                .map(|(name, found)| (name.clone(), found.volume_ml))
                .collect(),
            statistics,
            files: written
                .iter()
                .map(|(file, _)| file.clone())
                .filter(|file| Some(file) != saved.map(|saved| &saved.file))
                .collect(),
            written: written.into_iter().collect(),
            structures: self.structures.clone(),
            probability_labels: saved.map(|saved| saved.labels.clone()).unwrap_or_default(),
            seconds: self.started.elapsed().as_secs_f64(),
            peak_memory_mb: peak_memory_mb(),
        }
    }

    fn notes(&self, labels: &LabelMap, cascade: &CascadeReport) -> Vec<String> {
        let mut notes = self.image.header.warnings.clone();
        if self.image.non_finite > 0 {
            notes.push(format!(
                "{} voxels are not finite numbers; they were taken for air",
                self.image.non_finite
            ));
        }
        notes.extend(cascade.notes.iter().cloned());
        if labels.data.iter().all(|label| *label == 0) {
            notes.push("no structure was found; the label map is empty".to_owned());
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_case_counts_as_done_by_the_inference_version_and_not_by_the_release() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("case.nii.gz");
        let is_done_as = |rescale_hu, inference_version: Value, ctseg_version: &str| {
            let mut sidecar = json!({
                "input": "", "input_sha256": "input", "model": "", "model_sha256": "model",
                "ctseg_version": ctseg_version, "device": "", "shape": [1, 1, 1],
                "spacing_mm": [1.0, 1.0, 1.0], "orientation": "", "notes": [], "volumes_ml": {},
                "structures": {}, "seconds": 1.0, "peak_memory_mb": null,
                "cascade": {"roi": null, "roi_share": null, "notes": [], "seconds": {}},
            });
            if !inference_version.is_null() {
                sidecar["inference_version"] = inference_version;
            }
            std::fs::write(sidecar_path(&output), sidecar.to_string()).unwrap();
            let Found::Done(made) = found_at(&output).unwrap() else {
                panic!("no sidecar");
            };
            made.is_of("input", rescale_hu, "model")
        };
        let is_done = |version: Value, release: &str| is_done_as(None, version, release);
        assert!(is_done(json!(INFERENCE_VERSION), "0.0.1"));
        assert!(!is_done(
            json!(INFERENCE_VERSION + 1),
            env!("CARGO_PKG_VERSION")
        ));
        // Other values of the same volume are another input.
        let rescaled = Some(RescaleHu::Auto);
        assert!(!is_done_as(rescaled, json!(INFERENCE_VERSION), "0.0.1"));
        // From before there was such a number.
        assert_eq!(is_done(Value::Null, "0.1.0"), INFERENCE_VERSION == 1);
    }
}
