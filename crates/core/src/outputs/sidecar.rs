//! `<case>.json`, the sidecar of each label map: how it was made.
//!
//! Over 400 lines: writing, reading and comparing sidecars share one format.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::links::refuse_links_out;
use super::overlapping_masks::OverlappingMasks;
use super::{Outputs, remove_stale_files};
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

/// Version of the inference algorithm: label maps made by builds with the same version count as done and are kept.
/// Raise it only in a change after which the same model makes different label maps of the same volume.
pub const INFERENCE_VERSION: u32 = 1;

/// The metadata of a label map.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sidecar {
    /// Not in sidecars of older versions.
    #[serde(default)]
    pub state: State,
    #[serde(with = "os_text::path")]
    pub input: PathBuf,
    pub input_sha256: String,
    /// The first model.
    #[serde(with = "os_text::path")]
    pub model: PathBuf,
    /// Of the model, or of the whole ensemble.
    pub model_sha256: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ensemble: Vec<ModelUsed>,
    /// [`INFERENCE_VERSION`] of the build that made it; 1 if the sidecar does not have it.
    #[serde(default = "first_inference_version")]
    pub inference_version: u32,
    /// For information only.
    pub ctseg_version: String,
    pub device: String,
    /// Voxels along the file's axes.
    pub shape: [usize; 3],
    pub spacing_mm: [f64; 3],
    pub orientation: String,
    /// Warnings about the file and deviations from normal processing.
    pub notes: Vec<String>,
    pub cascade: CascadeReport,
    /// Whether the masks may overlap (each structure on its own); statistics are then those of the masks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overlapping: bool,
    /// Whether only the chosen `structures` were written, and a multi-part model ran only their parts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_chosen: bool,
    /// Options of `<case>_statistics.json`, if it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics_json: Option<TableOptions>,
    /// How the volume's values were rescaled to Hounsfield units (`--rescale-hu`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescale_hu: Option<RescaleHu>,
    /// Volume of each structure by name.
    pub volumes_ml: BTreeMap<String, f64>,
    /// Statistics of each structure by name.
    #[serde(default)]
    pub statistics: BTreeMap<String, StructureStatistics>,
    /// The case's files, relative to the sidecar's folder.
    #[serde(default, with = "os_text::paths")]
    pub files: Vec<PathBuf>,
    /// Size and hash of those files; empty in sidecars of older versions, whose cases are predicted again.
    #[serde(default, with = "os_text::path_keys")]
    pub written: BTreeMap<PathBuf, Written>,
    /// Label value of each structure by name.
    pub structures: BTreeMap<String, u16>,
    /// Label values in the order of the maps of saved probabilities.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probability_labels: Vec<u16>,
    pub seconds: f64,
    /// Peak resident memory of the process so far.
    pub peak_memory_mb: Option<f64>,
}

/// Progress of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Some files may have been written, but not all.
    Writing,
    #[default]
    Done,
}

/// The sidecar while the files of a case are being written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PartialSidecar {
    pub state: State,
    #[serde(with = "os_text::path")]
    pub input: PathBuf,
    pub ctseg_version: String,
    /// The process that writes, or wrote until it was killed.
    pub worker: Option<Worker>,
    /// All files that may exist, relative to the sidecar's folder.
    #[serde(with = "os_text::paths")]
    pub files: Vec<PathBuf>,
}

/// Larger files are not sidecars and are not read.
pub const MAX_BYTES: u64 = 64 << 20;

/// What was found at the path of a sidecar.
pub enum Found {
    Nothing,
    Partial(PartialSidecar),
    Done(Box<Sidecar>),
    /// A file that ctseg did not write.
    Foreign,
}

/// Looks for the sidecar of the label map `output`, which may not exist.
///
/// # Errors
/// The file cannot be read.
pub fn find_sidecar(output: &Path) -> Result<Found> {
    let path = sidecar_path(output);
    let text = match read_text_at_most(&path, MAX_BYTES) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) if error.kind() == ErrorKind::InvalidData => return Ok(Found::Foreign),
        Err(error) => return Err(Error::io(&path, "read")(error)),
    };
    if let Ok(partial) = serde_json::from_str::<PartialSidecar>(&text)
        && partial.state == State::Writing
    {
        return Ok(Found::Partial(partial));
    }
    let made = serde_json::from_str(&text);
    Ok(made.map_or(Found::Foreign, |made| Found::Done(Box::new(made))))
}

fn first_inference_version() -> u32 {
    1
}

/// Size and hash of a file, to detect changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    pub bytes: u64,
    pub sha256: String,
}

impl Written {
    /// Of the file at `path`.
    pub fn at(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(Error::io(path, "read"))?;
        Ok(Self {
            bytes: metadata.len(),
            sha256: file_sha256(path)?,
        })
    }

    /// Whether the file at `path` is unchanged.
    pub fn matches(&self, path: &Path) -> bool {
        let length = std::fs::metadata(path).map(|metadata| metadata.len());
        length.is_ok_and(|bytes| bytes == self.bytes)
            && file_sha256(path).is_ok_and(|sha256| sha256 == self.sha256)
    }
}

/// Path of the sidecar of a label map.
pub fn sidecar_path(output: &Path) -> PathBuf {
    case_file(output, ".json")
}

/// The finished sidecar of `label_map`, if there is one.
pub fn read_sidecar(label_map: &Path) -> Option<Sidecar> {
    match find_sidecar(label_map) {
        Ok(Found::Done(made)) => Some(*made),
        _ => None,
    }
}

/// Whether the case with label map `output` was made from this input with these models ([`Sidecar::matches`]), and
/// all of its files are intact.
pub fn is_complete_for(
    output: &Path,
    input_sha256: &str,
    rescale_hu: Option<RescaleHu>,
    model_sha256: &str,
) -> bool {
    read_sidecar(output).is_some_and(|made| {
        let mut files = made.files.iter();
        made.matches(input_sha256, rescale_hu, model_sha256)
            && !made.files.is_empty()
            && files.all(|file| made.is_intact(output, file))
    })
}

impl Sidecar {
    /// Whether the case was made from this input with the same rescaling to Hounsfield units, by models with this
    /// hash and by a build with the same [`INFERENCE_VERSION`].
    pub fn matches(
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

    /// Whether one of the case's files is as it was written, by length and hash, so that truncated copies and edits are
    /// detected. Hashing is cheap: label maps are a hundredth of the size of the volumes, which are hashed anyway.
    pub fn is_intact(&self, output: &Path, file: &Path) -> bool {
        let written = self.written.get(file);
        written.is_some_and(|written| written.matches(&parent_of(output).join(file)))
    }
}

impl Outputs {
    /// Whether a finished case has these outputs.
    pub fn match_sidecar(&self, made: &Sidecar, structures: &BTreeMap<String, u16>) -> bool {
        made.structures == *structures
            && made.only_chosen == self.structures.is_some()
            && made.statistics_json == self.statistics_json
            && made.overlapping == self.overlap
    }
}

fn write_json(path: &Path, content: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(content)
        .map_err(|error| Error::file(path, format!("cannot write the case as JSON: {error}")))?;
    write_bytes_atomically(path, text.as_bytes())
}

#[derive(Debug, Clone)]
pub struct SavedProbabilities {
    /// File name, in the folder of the label map.
    pub file: PathBuf,
    /// Label values in the order of its maps.
    pub labels: Vec<u16>,
}

/// Writes the files of a case.
pub struct CaseWriter<'a> {
    pub input: &'a Path,
    pub input_sha256: &'a str,
    pub image: &'a VolumeImage,
    pub models: &'a [ModelUsed],
    pub model_sha256: &'a str,
    pub device: String,
    /// Label value by name of the structures to write.
    pub structures: &'a BTreeMap<String, u16>,
    pub outputs: &'a Outputs,
    /// How the image's values were rescaled to Hounsfield units (`--rescale-hu`).
    pub rescale_hu: Option<RescaleHu>,
    /// The case's probabilities; their file already exists.
    pub probabilities: Option<SavedProbabilities>,
    pub started: Instant,
}

impl CaseWriter<'_> {
    /// Records in the sidecar that `files` (relative to its folder) are about to be written, and removes other files
    /// of an earlier prediction of the case.
    ///
    /// # Errors
    /// The sidecar cannot be written; the folder of masks is a link out of the output folder.
    pub fn start(&self, output: &Path, files: Vec<PathBuf>) -> Result<()> {
        refuse_links_out(output, &files)?;
        let stale = match find_sidecar(output)? {
            Found::Nothing | Found::Foreign => Vec::new(),
            Found::Partial(partial) => partial.files,
            Found::Done(made) => {
                let own = made
                    .files
                    .iter()
                    .filter(|file| made.is_intact(output, file));
                own.cloned().collect() // files changed since belong to the user
            }
        };
        let stale: Vec<PathBuf> = stale
            .into_iter()
            .filter(|file| !files.contains(file))
            .collect();
        let partial = PartialSidecar {
            state: State::Writing,
            input: self.input.to_path_buf(),
            ctseg_version: env!("CARGO_PKG_VERSION").to_owned(),
            worker: Some(Worker::current()),
            files: files.into_iter().chain(stale.iter().cloned()).collect(),
        };
        write_json(&sidecar_path(output), &partial)?;
        remove_stale_files(output, &stale);
        Ok(())
    }

    /// Writes the case's files on its input's grid, then the finished sidecar; call [`CaseWriter::start`] first.
    pub fn write(
        &self,
        output: &Path,
        mut labels: LabelMap,
        mut masks: Option<OverlappingMasks>,
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
            labels,
            masks.as_ref(),
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
                "{} voxels are not finite numbers; they were replaced by air",
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
            let Found::Done(made) = find_sidecar(&output).unwrap() else {
                panic!("no sidecar");
            };
            made.matches("input", rescale_hu, "model")
        };
        let is_done = |version: Value, release: &str| is_done_as(None, version, release);
        assert!(is_done(json!(INFERENCE_VERSION), "0.0.1"));
        assert!(!is_done(
            json!(INFERENCE_VERSION + 1),
            env!("CARGO_PKG_VERSION")
        ));
        // Rescaled values count as another input.
        let rescaled = Some(RescaleHu::Auto);
        assert!(!is_done_as(rescaled, json!(INFERENCE_VERSION), "0.0.1"));
        // Sidecars of versions before the inference version.
        assert_eq!(is_done(Value::Null, "0.1.0"), INFERENCE_VERSION == 1);
    }
}
