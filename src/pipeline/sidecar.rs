//! `<case>.json`, which lies beside each label map and says how it was made.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::cascade::CascadeReport;
use super::outputs::{Outputs, remove_left_over};
use crate::arrays::nifti::{NiftiImage, case_name};
use crate::arrays::statistics::{StructureStatistics, structure_statistics};
use crate::cpu_budget::peak_memory_mb;
use crate::error::{Error, Result};
use crate::files::write_bytes_atomically;
use crate::values::LabelMap;

/// What is known of a label map.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sidecar {
    pub input: PathBuf,
    pub input_sha256: String,
    /// The first model.
    pub model: PathBuf,
    /// Of the model, or of all that were averaged.
    pub model_sha256: String,
    /// Where several models were averaged: each of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ensemble: Vec<ModelUsed>,
    pub ctseg_version: String,
    pub device: String,
    /// Voxels along the file's axes.
    pub shape: [usize; 3],
    pub spacing_mm: [f64; 3],
    pub orientation: String,
    /// Warnings about the file and deviations from the normal way.
    pub notes: Vec<String>,
    pub cascade: CascadeReport,
    /// Volume of each structure by name.
    pub volumes_ml: BTreeMap<String, f64>,
    /// What each structure measures, by name.
    #[serde(default)]
    pub statistics: BTreeMap<String, StructureStatistics>,
    /// The case's files, relative to the sidecar's folder.
    #[serde(default)]
    pub files: Vec<PathBuf>,
    /// Label value of each structure by name.
    pub structures: BTreeMap<String, u16>,
    pub seconds: f64,
    /// Largest resident memory of the process so far.
    pub peak_memory_mb: Option<f64>,
}

/// One of several models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelUsed {
    pub model: PathBuf,
    pub sha256: String,
}

/// The sidecar of a label map.
pub fn sidecar_path(output: &Path) -> PathBuf {
    let name = case_name(output).unwrap_or_else(|| "case".to_owned());
    output.with_file_name(format!("{name}.json"))
}

/// The sidecar beside `label_map`, if there is one that can be read.
pub fn read_sidecar(label_map: &Path) -> Option<Sidecar> {
    serde_json::from_slice(&std::fs::read(sidecar_path(label_map)).ok()?).ok()
}

/// The whole label map at `output`, if it is there: its sidecar is written after it and removed before a new one,
/// so that with the sidecar there both are whole. Of this input and of models with this hash. Also a case without
/// a label map, if none was wanted; whether its files are there, [`Outputs::are_there`] says.
pub fn whole_of(output: &Path, input_sha256: &str, model_sha256: &str) -> Option<Sidecar> {
    read_sidecar(output).filter(|made| {
        (output.exists() || !made.has_label_map(output))
            && made.input_sha256 == input_sha256
            && made.model_sha256 == model_sha256
            && made.ctseg_version == env!("CARGO_PKG_VERSION")
    })
}

impl Sidecar {
    /// Whether the label map is among the case's files.
    fn has_label_map(&self, output: &Path) -> bool {
        let name = output.file_name().map(Path::new);
        self.files.is_empty() || self.files.iter().any(|file| Some(file.as_path()) == name)
    }
}

/// What a label map is made of and with.
pub struct Making<'a> {
    pub input: &'a Path,
    pub input_sha256: &'a str,
    pub image: &'a NiftiImage,
    pub models: &'a [ModelUsed],
    pub model_sha256: &'a str,
    pub device: String,
    /// Label value of each structure by name; of those that are wanted.
    pub structures: &'a BTreeMap<String, u16>,
    pub outputs: &'a Outputs,
    pub started: Instant,
}

impl Making<'_> {
    /// Writes the case's files on its input's grid, and its sidecar after them.
    pub fn written(
        &self,
        output: &Path,
        mut labels: LabelMap,
        mut cascade: CascadeReport,
    ) -> Result<Sidecar> {
        let writing = Instant::now();
        let (image, structures) = (self.image, self.structures);
        if let Some(before) = read_sidecar(output) {
            let wanted = self.outputs.files(output, structures);
            remove_left_over(output, &before.files, &wanted);
        }
        let sidecar_path = sidecar_path(output);
        if sidecar_path.exists() {
            std::fs::remove_file(&sidecar_path)
                .map_err(Error::io(&sidecar_path, "remove the old"))?;
        }
        self.outputs.select(&mut labels, structures);
        let labels = &labels;
        let statistics = self.statistics(labels);
        let measured = writing.elapsed().as_secs_f64();
        let files = self
            .outputs
            .write(output, image, labels, structures, &statistics)?;
        let seconds = writing.elapsed().as_secs_f64() - measured;
        cascade.seconds.insert("statistics".to_owned(), measured);
        cascade.seconds.insert("write".to_owned(), seconds);
        let sidecar = self.sidecar(labels, statistics, files, cascade);
        let text = serde_json::to_string_pretty(&sidecar)
            .map_err(|error| Error::file(output, format!("cannot describe the result: {error}")))?;
        write_bytes_atomically(&sidecar_path, text.as_bytes())?;
        Ok(sidecar)
    }

    fn statistics(&self, labels: &LabelMap) -> BTreeMap<String, StructureStatistics> {
        let values: Vec<u16> = self.structures.values().copied().collect();
        let found = structure_statistics(&values, labels, &self.image.volume);
        self.structures.keys().cloned().zip(found).collect()
    }

    fn sidecar(
        &self,
        labels: &LabelMap,
        statistics: BTreeMap<String, StructureStatistics>,
        files: Vec<PathBuf>,
        cascade: CascadeReport,
    ) -> Sidecar {
        let grid = self.image.volume.grid;
        Sidecar {
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
            ctseg_version: env!("CARGO_PKG_VERSION").to_owned(),
            device: self.device.clone(),
            shape: grid.shape,
            spacing_mm: grid.spacing_mm(),
            orientation: grid.orientation().to_string(),
            notes: self.notes(labels, &cascade),
            cascade,
            volumes_ml: statistics
                .iter()
                .map(|(name, found)| (name.clone(), found.volume_ml))
                .collect(),
            statistics,
            files,
            structures: self.structures.clone(),
            seconds: self.started.elapsed().as_secs_f64(),
            peak_memory_mb: peak_memory_mb(),
        }
    }

    fn notes(&self, labels: &LabelMap, cascade: &CascadeReport) -> Vec<String> {
        let mut notes = self.image.header.warnings().to_vec();
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
