//! Imports the weights that TotalSegmentator downloads as a multi-part model.

use std::path::{Path, PathBuf};

use super::tasks::{ModelEntry, Task, TaskRough, Tasks};
use crate::nnunet::{ImportOptions, Imported, import_model};
use ctseg_base::progress::Observer;
use ctseg_base::{Error, Result};
use ctseg_core::model::multi_part::{
    FORMAT, MultiPartManifest, MultiPartModel, PartManifest, RoughManifest, When,
};
use ctseg_core::recipe::Axes;
use ctseg_engine::device::Compute;
use ctseg_image::resample::Interpolation;

/// The rough model's folder in a model.
const ROUGH: &str = "rough";

/// Locations of the results folder below the folder that the user gives.
const RESULTS_FOLDERS: [&str; 4] = [
    "",
    "results",
    "nnunet/results",
    ".totalsegmentator/nnunet/results",
];

/// Source and target of an import.
pub struct ImportTask<'a> {
    /// The nnU-Net results folder or one above it, which may also contain the zip files of TotalSegmentator's releases.
    pub weights: &'a Path,
    pub task: &'a str,
    /// Output folder of the model.
    pub target: &'a Path,
    /// Device on which the weights are checked.
    pub compute: &'a Compute,
}

#[derive(Debug, Clone)]
pub struct ImportedTask {
    pub structures: usize,
    /// Each part's folder, its source, and its import result.
    pub parts: Vec<(String, PathBuf, Imported)>,
    /// The task of the rough model, if its weights were found.
    pub rough: Option<String>,
    /// Notes on missing optional weights.
    pub notes: Vec<String>,
}

/// Imports a TotalSegmentator task. All required weights are located first; an existing model is replaced as a whole.
///
/// # Errors
/// An unsupported task; missing weights, with the command that downloads them; errors of [`import_model`].
pub fn import_task(job: &ImportTask, observer: &dyn Observer) -> Result<ImportedTask> {
    let known = Tasks::known()?;
    let task = known.task(job.task)?;
    let importing = Importing {
        known,
        job,
        observer,
    };
    MultiPartModel::check_target(job.target)?;
    importing.check_weights(job.task, task)?;
    importing.publish(job.task, task, job.target, false)
}

struct Importing<'a> {
    known: &'static Tasks,
    job: &'a ImportTask<'a>,
    observer: &'a dyn Observer,
}

impl Importing<'_> {
    /// Checks that all required weights exist, including those of required rough models.
    fn check_weights(&self, name: &str, task: &Task) -> Result<()> {
        for part in &task.parts {
            self.find(name, self.known.model(part.model)?)?;
        }
        match &task.rough {
            Some(rough) if rough.when == When::Always => {
                self.check_weights(name, self.known.task(&rough.task)?)
            }
            _ => Ok(()),
        }
    }

    /// Writes the model of a task. If `is_rough`, its own rough model is included only if it is always needed.
    fn publish(
        &self,
        name: &str,
        task: &Task,
        target: &Path,
        is_rough: bool,
    ) -> Result<ImportedTask> {
        let mut result = ImportedTask {
            structures: task.structures.len(),
            parts: Vec::new(),
            rough: None,
            notes: Vec::new(),
        };
        MultiPartModel::publish(target, |folder| {
            let mut manifest = self.import_parts(name, task, folder, &mut result)?;
            let rough = task.rough.as_ref();
            let rough = rough.filter(|rough| rough.when == When::Always || !is_rough);
            if let Some(rough) = rough {
                manifest.rough = self.import_rough(task, rough, folder, &mut result)?;
            }
            Ok(manifest)
        })?;
        Ok(result)
    }

    /// Imports the parts into `folder`.
    fn import_parts(
        &self,
        name: &str,
        task: &Task,
        folder: &Path,
        result: &mut ImportedTask,
    ) -> Result<MultiPartManifest> {
        let structures = task.structures.iter().enumerate();
        let mut manifest = MultiPartManifest {
            format: FORMAT,
            ctseg_version: env!("CARGO_PKG_VERSION").to_owned(),
            name: format!("TotalSegmentator {}, task {name}", self.known.version),
            structures: structures
                .map(|(place, name)| ((place + 1).to_string(), name.clone()))
                .collect(),
            parts: Vec::new(),
            rough: None,
            postprocessing: task.postprocessing.clone(),
        };
        for part in &task.parts {
            let model = self.known.model(part.model)?;
            let source = self.find(name, model)?;
            self.observer
                .info(&format!("importing {}", source.display()));
            let options = options(model);
            let to = folder.join(&model.folder);
            let imported = import_model(&source, &to, &options, self.job.compute)?;
            result.notes.extend(imported.notes.iter().cloned());
            result.parts.push((model.folder.clone(), source, imported));
            manifest.parts.push(PartManifest {
                folder: model.folder.clone(),
                sha256: String::new(),
                labels: task.labels_of(part),
            });
        }
        Ok(manifest)
    }

    /// Imports the rough model into `folder`. Returns `None` if it is missing and optional.
    fn import_rough(
        &self,
        task: &Task,
        rough: &TaskRough,
        folder: &Path,
        result: &mut ImportedTask,
    ) -> Result<Option<RoughManifest>> {
        let finder = self.known.task(&rough.task)?;
        if let Err(error) = self.check_weights(&rough.task, finder) {
            if rough.when == When::Always {
                return Err(error);
            }
            result.notes.push(format!(
                "without a rough model, --structures processes whole volumes: {error}"
            ));
            return Ok(None);
        }
        self.publish(&rough.task, finder, &folder.join(ROUGH), true)?;
        result.rough = Some(rough.task.clone());
        Ok(Some(rough.manifest(
            ROUGH,
            &task.structures,
            &finder.structures,
        )))
    }

    /// Finds a network's weights: its model folder, or the zip file of a release.
    fn find(&self, task: &str, model: &ModelEntry) -> Result<PathBuf> {
        let weights = self.job.weights;
        let mut dataset = None;
        for results in RESULTS_FOLDERS {
            let folder = weights.join(results);
            let named = folder.join(&model.folder);
            if named.join(&model.model).is_dir() {
                return Ok(named.join(&model.model));
            }
            dataset = dataset.or(named.is_dir().then_some(named));
            let zip = folder.join(format!("{}.zip", model.folder));
            if zip.is_file() {
                return Ok(zip);
            }
        }
        match dataset {
            Some(dataset) => Err(Error::file(
                &dataset,
                format!(
                    "has no '{}', which TotalSegmentator {} uses for task {task}; download it again with 'totalseg_download_weights -t {}'",
                    model.model, self.known.version, model.download
                ),
            )),
            None => Err(Error::file(
                weights,
                format!(
                    "has no '{}', which task {task} needs; expected TotalSegmentator's weights folder (~/.totalsegmentator/nnunet/results); download the weights with 'totalseg_download_weights -t {}'",
                    model.folder, model.download
                ),
            )),
        }
    }
}

/// Options as in TotalSegmentator: volumes in RAS orientation, no mirroring.
fn options(model: &ModelEntry) -> ImportOptions {
    ImportOptions {
        folds: model.folds.iter().map(usize::to_string).collect(),
        axes: Some(Axes::Ras),
        unmirrored: true,
        step: Some(model.step),
        interpolation: model.linear.then_some(Interpolation::Linear),
        // A zip file may contain several models.
        configuration: model.model.rsplit("__").next().map(str::to_owned),
        ..ImportOptions::default()
    }
}
