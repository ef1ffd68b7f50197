//! From the weights that TotalSegmentator downloads to a model of several parts.

use std::path::{Path, PathBuf};

use super::tasks::{ModelEntry, Task, TaskRough, Tasks};
use crate::nnunet::{ImportOptions, Imported, import_model};
use ctseg_base::progress::Observer;
use ctseg_base::{Error, Result};
use ctseg_core::model::multi_part::{
    FORMAT, PartManifest, PartedManifest, PartedModel, RoughManifest, When,
};
use ctseg_core::recipe::Axes;
use ctseg_engine::device::Compute;
use ctseg_image::resample::Interpolation;

/// The rough model's folder in a model.
const ROUGH: &str = "rough";

/// Where results lie below what may be named instead of their folder.
const BELOW: [&str; 4] = [
    "",
    "results",
    "nnunet/results",
    ".totalsegmentator/nnunet/results",
];

/// What is imported, and from where.
pub struct ImportTask<'a> {
    /// Folder with nnU-Net's results, or one above it; the zip files of TotalSegmentator's releases will do.
    pub weights: &'a Path,
    pub task: &'a str,
    /// Folder of the model that is written.
    pub target: &'a Path,
    /// Where weights are tried.
    pub compute: &'a Compute,
}

/// What was imported.
#[derive(Debug, Clone)]
pub struct Brought {
    pub structures: usize,
    /// Each part's folder, where it came from, and what it is.
    pub parts: Vec<(String, PathBuf, Imported)>,
    /// The task whose networks find the region, if they were there.
    pub rough: Option<String>,
    /// What is missing without being needed for everything, in words.
    pub notes: Vec<String>,
}

/// Imports a task of TotalSegmentator. What it needs is looked for before anything is done; a model that is there is
/// replaced as a whole.
///
/// # Errors
/// A task that cannot be imported; weights that are missing, with the command that downloads them; what
/// [`import_model`] says.
pub fn import_task(job: &ImportTask, observer: &dyn Observer) -> Result<Brought> {
    let known = Tasks::known()?;
    let task = known.task(job.task)?;
    let importing = Importing {
        known,
        job,
        observer,
    };
    PartedModel::check_target(job.target)?;
    importing.check_all_there(job.task, task)?;
    importing.published(job.task, task, job.target, false)
}

struct Importing<'a> {
    known: &'static Tasks,
    job: &'a ImportTask<'a>,
    observer: &'a dyn Observer,
}

impl Importing<'_> {
    /// All that a task cannot do without, rough models and theirs included.
    fn check_all_there(&self, name: &str, task: &Task) -> Result<()> {
        for part in &task.parts {
            self.found(name, self.known.model(part.model)?)?;
        }
        match &task.rough {
            Some(rough) if rough.when == When::Always => {
                self.check_all_there(name, self.known.task(&rough.task)?)
            }
            _ => Ok(()),
        }
    }

    /// `is_rough`: for every structure of it alike, so that its own rough model is of use for every volume or never.
    fn published(&self, name: &str, task: &Task, target: &Path, is_rough: bool) -> Result<Brought> {
        let mut brought = Brought {
            structures: task.structures.len(),
            parts: Vec::new(),
            rough: None,
            notes: Vec::new(),
        };
        PartedModel::publish(target, |folder| {
            let mut manifest = self.with_parts(name, task, folder, &mut brought)?;
            let rough = task.rough.as_ref();
            let rough = rough.filter(|rough| rough.when == When::Always || !is_rough);
            if let Some(rough) = rough {
                manifest.rough = self.with_rough(task, rough, folder, &mut brought)?;
            }
            Ok(manifest)
        })?;
        Ok(brought)
    }

    /// Puts the parts into `folder`.
    fn with_parts(
        &self,
        name: &str,
        task: &Task,
        folder: &Path,
        brought: &mut Brought,
    ) -> Result<PartedManifest> {
        let structures = task.structures.iter().enumerate();
        let mut manifest = PartedManifest {
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
            let source = self.found(name, model)?;
            self.observer
                .say(&format!("importing {}", source.display()));
            let options = options(model);
            let to = folder.join(&model.folder);
            let imported = import_model(&source, &to, &options, self.job.compute)?;
            brought.notes.extend(imported.notes.iter().cloned());
            brought.parts.push((model.folder.clone(), source, imported));
            manifest.parts.push(PartManifest {
                folder: model.folder.clone(),
                sha256: String::new(),
                labels: task.labels_of(part),
            });
        }
        Ok(manifest)
    }

    /// Puts the rough model into `folder`; none where it is not there and can be done without.
    fn with_rough(
        &self,
        task: &Task,
        rough: &TaskRough,
        folder: &Path,
        brought: &mut Brought,
    ) -> Result<Option<RoughManifest>> {
        let finder = self.known.task(&rough.task)?;
        if let Err(error) = self.check_all_there(&rough.task, finder) {
            if rough.when == When::Always {
                return Err(error);
            }
            brought.notes.push(format!(
                "without a rough model --structures will look at whole volumes: {error}"
            ));
            return Ok(None);
        }
        self.published(&rough.task, finder, &folder.join(ROUGH), true)?;
        brought.rough = Some(rough.task.clone());
        Ok(Some(rough.manifest(
            ROUGH,
            &task.structures,
            &finder.structures,
        )))
    }

    /// Where a network's weights are: its model folder, or the zip file of a release.
    fn found(&self, task: &str, model: &ModelEntry) -> Result<PathBuf> {
        let weights = self.job.weights;
        let mut dataset = None;
        for below in BELOW {
            let folder = weights.join(below);
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
                    "has no '{}', which task {task} needs; expected the folder with TotalSegmentator's weights (~/.totalsegmentator/nnunet/results), and in it what 'totalseg_download_weights -t {}' downloads",
                    model.folder, model.download
                ),
            )),
        }
    }
}

/// As TotalSegmentator uses its networks: on volumes turned to RAS, never mirrored.
fn options(model: &ModelEntry) -> ImportOptions {
    ImportOptions {
        folds: model.folds.iter().map(usize::to_string).collect(),
        axes: Some(Axes::Ras),
        unmirrored: true,
        step: Some(model.step),
        interpolation: model.linear.then_some(Interpolation::Linear),
        // Of several models in a zip file.
        configuration: model.model.rsplit("__").next().map(str::to_owned),
        ..ImportOptions::default()
    }
}
